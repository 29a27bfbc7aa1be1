"""`ciris-billing completion`: prints the script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete these commands",
        description='For bash and zsh, in ~/.bashrc or ~/.zshrc: eval "$(ciris-billing completion'
        ' bash)". For fish: ciris-billing completion fish | source.',
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["ciris-billing"], shell=options.shell))
    return 0
