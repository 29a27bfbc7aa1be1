"""Makes .venv and installs this project into it, for `make run` and `make venv`:
`python3 ops/install.py embedded test` installs what the project needs and these extras.

It prints what it does and its progress. pip's own output is shown when pip fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = Path(".venv")
OLDEST_PYTHON = (3, 11)
FETCHED = re.compile(r"\s*(?:Downloading|Processing|Using cached)\s+(?:.*/)?([A-Za-z0-9_.]+?)-\d")
INSTALLING = re.compile(r"Installing collected packages: (.*)")


def main(extras: list[str]) -> int:
    """Installs the project. Returns the exit code."""
    if sys.version_info < OLDEST_PYTHON:
        print("Python 3.11 or newer is needed: make PYTHON=python3.12 ...", file=sys.stderr)
        return 1
    program = ENVIRONMENT / "bin" / "python"
    if not program.exists():
        print(f"Install 1 of 2: making a virtual environment in {ENVIRONMENT}/", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    print("Install 2 of 2: fetching and installing packages, for a minute or two", flush=True)
    return install(program, f"{ROOT}[{','.join(extras)}]")


def install(program: Path, requirement: str) -> int:
    """Runs pip and shows its progress in one line. Returns pip's exit code."""
    command = [program, "-m", "pip", "install", "--disable-pip-version-check", "--no-color"]
    # setuptools prints a large warning about every editable install.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [*command, "--progress-bar=off", "--editable", requirement],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as pip:
        assert pip.stdout is not None
        output: list[str] = []
        for text in progress(keeping(pip.stdout, output)):
            show(text)
    if sys.stdout.isatty():
        print()
    if pip.returncode:
        print("".join(output), file=sys.stderr)
    return pip.returncode


def keeping(lines: Iterable[str], kept: list[str]) -> Iterable[str]:
    """Yields the lines, and adds each to `kept`."""
    for line in lines:
        kept.append(line)
        yield line


def progress(lines: Iterable[str]) -> Iterable[str]:
    """Yields what pip's lines say about its progress."""
    fetched = 0
    for line in lines:
        if found := FETCHED.match(line):
            fetched += 1
            yield f"{fetched} packages fetched: {found[1]}"
        elif found := INSTALLING.match(line):
            yield f"all packages fetched, installing {len(found[1].split(', '))}"
        elif line.startswith("Successfully installed"):
            yield f"{len(line.split()) - 2} packages installed"


def show(text: str) -> None:
    """Shows progress: on a terminal in one line that changes, elsewhere in a line for every tenth
    package."""
    if sys.stdout.isatty():
        print(f"\r  {text[:76]:76}", end="", flush=True)
    elif not re.match(r"\d*[1-9] packages fetched", text):
        print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
