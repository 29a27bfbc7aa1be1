"""argparse with "did you mean". From Python 3.14 on, argparse suggests values itself, but no
options."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from server.limits import INT64_MAX


class Parser(argparse.ArgumentParser):
    """A parser with suggestions. add_subparsers() makes the parsers of commands from this class
    too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", int, _whole_number)  # every argument with type=int

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses unknown arguments here, where the command's own parser can suggest what was
        meant."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            meant = _did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return options, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action,
            f"invalid choice: {value!r} (choose from {', '.join(choices)})"
            + _did_you_mean(str(value), choices),
        )


def _whole_number(text: str) -> int:
    number = int(text)
    if abs(number) > INT64_MAX:
        raise argparse.ArgumentTypeError(f"no number beyond {INT64_MAX} can be stored")
    return number


def idempotency_key(text: str) -> str:
    """A key as it was given. An empty one, as of a variable that is not set, would be none, and
    the same call again would count twice."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a key needs at least one character")
    return text


def _did_you_mean(text: str, known: Iterable[str]) -> str:
    near = get_close_matches(text, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
