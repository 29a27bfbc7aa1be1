"""The command `ciris-billing`. Exit codes: 0 success, 1 failure, 2 wrong usage or configuration,
130 interrupted, 141 the reader of the output went away."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from server.cli.output import CommandFailed, report_config_faults
from server.cli.parser import Parser
from server.cli.running_dev import use_running_dev
from server.config import ConfigError

_COMMANDS = (
    "dev",
    "serve",
    "migrate",
    "keys",
    "admins",
    "accounts",
    "payments",
    "providers",
    "reconcile",
    "verify",
    "maintenance",
    "seal",
    "completion",
)
# These commands never use the database of a running `dev`: `dev` brings its own, `serve` must be
# told which one, and `completion` needs none.
_WITHOUT_DEV = ("dev", "serve", "completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(given)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(given)
    try:
        if given[0] not in _WITHOUT_DEV:
            use_running_dev(os.environ)
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of the output, `head` for one, has read enough. What is left goes nowhere, so
        # that the interpreter does not report it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as if SIGPIPE had ended it
    except ConfigError as error:
        report_config_faults(error)
        return 2
    except CommandFailed as error:
        print(f"ciris-billing: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(given: Sequence[str]) -> Parser:
    parser = Parser(
        prog="ciris-billing",
        description="Credit gating for AI agents. Commands find their database by DATABASE_URL (or"
        " DATABASE_URL_FILE); where neither is set, beside a running `dev`, by themselves.",
    )
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="show program's version number and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _asked_for(given):
        import_module(f"server.cli.{name}").add_parser(commands)
    return parser


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from server import __version__

        print(f"ciris-billing {__version__}")
        parser.exit()


def _asked_for(given: Sequence[str]) -> Sequence[str]:
    """The commands to load. A server that starts must not wait for the packages of other commands;
    --version needs no command."""
    if given[:1] == ["--version"]:
        return ()
    return given[:1] if given and given[0] in _COMMANDS else _COMMANDS
