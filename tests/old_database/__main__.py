"""`python -m tests.old_database DSN`: an old database to rehearse with, in an empty database."""

from __future__ import annotations

import argparse
import json

from tests.old_database import BASE, build, revisions


def main() -> None:
    """Builds it and prints its API keys as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.old_database", description=__doc__)
    parser.add_argument("dsn", help="postgresql://... of an empty database")
    parser.add_argument("--revision", default=BASE, choices=revisions(), metavar="REVISION")
    parser.add_argument("--accounts", type=int, default=350)
    parser.add_argument("--charges", type=int, default=1750)
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same rows")
    options = parser.parse_args()
    keys = build(options.dsn, options.revision, options.accounts, options.charges, options.seed)
    print(json.dumps([{"name": key.name, "secret": key.secret} for key in keys], indent=2))


if __name__ == "__main__":
    main()
