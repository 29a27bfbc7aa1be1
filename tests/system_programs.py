"""Installs the system programs that tests use and pip cannot bring:
`python -m tests.system_programs`.

As root on Debian they are installed by apt; otherwise the tests that need them are skipped by
name. With CI=true nothing may be skipped, so a missing program ends the run here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# A file that shows that a package is installed -> the package.
PACKAGES = {
    Path("/usr/lib/postgresql/15/bin/postgres"): "postgresql-15",
    Path("/usr/lib/postgresql/15/lib/plpgsql_check.so"): "postgresql-15-plpgsql-check",
    Path("/usr/bin/chromium"): "chromium",
    Path("/usr/bin/curl"): "curl",
    Path("/usr/bin/promtool"): "prometheus",
    Path("/usr/sbin/pgbouncer"): "pgbouncer",
    Path("/usr/bin/pgbackrest"): "pgbackrest",
    Path("/usr/sbin/nginx"): "nginx",
    Path("/usr/bin/docker-compose"): "docker-compose",
    Path("/usr/bin/envsubst"): "gettext-base",
    Path("/usr/bin/psql"): "postgresql-client-15",
    Path("/usr/bin/wrk"): "wrk",
}


def missing_packages() -> list[str]:
    """The Debian packages whose programs are missing."""
    return [package for program, package in PACKAGES.items() if not program.exists()]


def main() -> int:
    """Installs what is missing, where it can."""
    missing = missing_packages()
    if not missing:
        return 0
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run(
                ["apt-get", "--quiet", *command],
                check=False,
                env=environment,
                stdout=subprocess.DEVNULL,
            )
        missing = missing_packages()
    if missing:
        print(f"not installed: {', '.join(missing)}; the tests that need them are skipped")
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
