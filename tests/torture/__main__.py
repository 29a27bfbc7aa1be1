"""`python -m tests.torture`: the long form of the fault runner."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from tests.torture.faults import FAULTS
from tests.torture.runner import torture


def main() -> int:
    """Runs the rounds; exit code 1 when anything was lost, doubled, overspent or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--seed", type=int, help="repeats the faults of that run; random if absent")
    parser.add_argument(
        "--fault", action="append", choices=sorted(FAULTS), help="draw from these only"
    )
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    print(f"seed {seed}", flush=True)
    report = asyncio.run(
        torture(
            options.rounds,
            seed,
            faults={name: FAULTS[name] for name in options.fault or FAULTS},
            tell=lambda line: print(line, flush=True),
        )
    )
    print(report.text())
    return 1 if report.faults or report.rounds < options.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
