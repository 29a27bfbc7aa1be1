"""The command `ciris-billing`. Exit codes: 0 done, 1 it failed, 2 used or configured wrongly."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from server import __version__
from server.cli.output import CommandFailed, report_config_faults
from server.config import ConfigError

_COMMANDS = (
    "dev",
    "serve",
    "migrate",
    "keys",
    "admins",
    "payments",
    "providers",
    "reconcile",
    "verify",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="ciris-billing",
        description="Credit gating for AI agents. Every command but `dev` finds its database by"
        " DATABASE_URL (or DATABASE_URL_FILE).",
    )
    parser.add_argument("--version", action="version", version=f"ciris-billing {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    given = sys.argv[1:] if arguments is None else arguments
    # Only what is asked for is loaded: a server that starts waits for nobody else's packages.
    asked_for = given[:1] if given and given[0] in _COMMANDS else _COMMANDS
    for name in asked_for:
        import_module(f"server.cli.{name}").add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        report_config_faults(error)
        return 2
    except CommandFailed as error:
        print(f"ciris-billing: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
