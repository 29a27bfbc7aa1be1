"""`ciris-billing migrate --adopt`: take over a database of the old service."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tqdm import tqdm

from server import migrate as migrations
from server.adopt import AdoptionReport, adopt, count_steps, duration, forecast
from server.cli.output import print_json
from server.config import SettingsSeed, load_encryption_keys


def take_over(
    url: str, seed: SettingsSeed, idle_logins: Sequence[str], *, dry_run: bool, as_json: bool
) -> int:
    """Takes the database at `url` over, or reports what that would do. Returns the exit code.
    Sessions of `idle_logins` may stay open.

    Raises ConfigError for a weak ENCRYPTION_KEY, MigrationError when the takeover is refused or
    fails."""
    keys = load_encryption_keys(os.environ)
    with _Progress(count_steps(), is_shown=not as_json) as progress:
        if dry_run:
            report = forecast(url, seed, keys, progress.step, idle_logins)
        else:
            report = adopt(url, seed, keys, progress.step, idle_logins)
            # What is left to do, such as the partitions of coming months and the figures.
            migrations.migrate(url, seed, progress.step)
    if as_json:
        print_json({"taken_over_before": True} if report is None else report.as_dict())
    elif report is None:
        print("The database was taken over before; nothing was changed.")
    else:
        _print(report)
    return 0


def _print(report: AdoptionReport) -> None:
    for line in report.lines():
        print(line)
    if not report.is_dry_run:
        print(
            f"Taken over in {duration(report.seconds)}. The books agree. The report is kept in"
            " legacy_service.adoption."
        )


class _Progress:
    """Shows a progress bar on a terminal, and prints a line for each step elsewhere."""

    def __init__(self, steps: int, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._steps = steps
        self._bar = tqdm(
            total=steps,
            bar_format="{percentage:3.0f}% {bar} {elapsed} {desc}",
            disable=not is_shown or not sys.stderr.isatty(),
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._bar.set_description_str("done")
            self._bar.n = self._steps
        self._bar.close()

    def step(self, name: str) -> None:
        """Shows that a step begins."""
        if not self._bar.disable:
            self._bar.set_description_str(name, refresh=False)
            self._bar.update()
        elif self._is_shown:
            print(name, file=sys.stderr)
