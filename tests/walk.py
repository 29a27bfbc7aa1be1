"""The walk of docs/dba.md: examples/*.sql in one psql session of a DBA, in the order of their
names. What they print is recorded in examples/*.out, and both are shown in docs/dba.md.
`make golden` records and writes anew."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

from server.embedded import find_binaries
from tests.support import BILLING, Database, clean_environment

TREE = Path(__file__).resolve().parents[1]
EXAMPLES = TREE / "examples"
PSQLRC = TREE / "ops" / "psqlrc"
DOCUMENT = TREE / "docs" / "dba.md"
BEGIN = "<!-- The walk: `make golden` writes it from examples/. -->\n"
END = "<!-- The end of the walk. -->\n"
_DAY = date(2026, 11, 1)  # recorded runs say that they are of this day
_MARK = "-- example "
_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_TIME = re.compile(r"\b\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:\+00)?\b")


def scripts() -> list[Path]:
    """The examples, in order; a file without a number is called by one of them."""
    return sorted(EXAMPLES.glob("[0-9][0-9]_*.sql"))


def parts(script: Path) -> tuple[str, str, str]:
    """Title, explanation and statements of an example."""
    title, _, rest = script.read_text(encoding="utf-8").partition("\n--\n")
    lines = rest.splitlines(keepends=True)
    words = [line for line in lines if line.startswith("-- ")]
    explanation = "".join(line.removeprefix("-- ") for line in words)
    return title.removeprefix("-- "), explanation, "".join(lines[len(words) :])


def walk(database: Database, user: str = "t_dba") -> tuple[dict[str, str], float]:
    """Runs the whole walk in one session. Returns what each example shows, with ids, days and
    times made the same in every run, and how many seconds it took."""
    text = "\\timing off\n\\pset expanded off\n" + "".join(
        f"\\echo '{_MARK}{path.stem}'\n{parts(path)[2]}" for path in scripts()
    )
    binaries = find_binaries(18)
    began, day = time.monotonic(), datetime.now(UTC).date()
    done = subprocess.run(
        [binaries / "psql", "--echo-all", "--quiet", database.dsn(user)],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        cwd=TREE,
        env={
            **clean_environment(),
            "PATH": f"{Path(BILLING).parent}:{binaries}:{os.environ['PATH']}",
            "PSQLRC": str(PSQLRC),
            "DATABASE_URL": database.dsn(user),
        },
    )
    took = time.monotonic() - began
    if datetime.now(UTC).date() != day:
        raise AssertionError("the day changed during the walk; run it again")
    shown = re.split(rf"\\echo '{_MARK}\w+'\n{_MARK}(\w+)\n", done.stdout)[1:]
    same = _mask(day)
    return {name: same(said) for name, said in zip(shown[::2], shown[1::2], strict=True)}, took


def _mask(day: date) -> Callable[[str], str]:
    ids: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return ids.setdefault(found[0], f"00000000-0000-7000-8000-{len(ids) + 1:012}")

    def shifted(found: re.Match[str]) -> str:
        try:
            return str(_DAY + (date.fromisoformat(found[0]) - day))
        except ValueError:
            return found[0]

    def same(text: str) -> str:
        text = _TIME.sub("12:00:00", _DATE.sub(shifted, _ID.sub(number, text)))
        return text.replace("t_dba", "grace")

    return same


def chapter() -> str:
    """The walk as docs/dba.md shows it."""
    sections, index = [], []
    for number, script in enumerate(scripts()[1:], 1):  # the first makes what the others need
        title, explanation, _ = parts(script)
        heading = f"{number}. {title}"
        index.append(f"- [{heading}](#{anchor_of(heading)})\n")
        said = script.with_suffix(".out").read_text(encoding="utf-8")
        sections.append(f"### {heading}\n\n{explanation}\n```\n{said}```\n")
    return "\n".join(("".join(index), *sections))


def anchor_of(heading: str) -> str:
    """The anchor that GitHub and most others make of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def document() -> str:
    """docs/dba.md with the walk as it is now."""
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{chapter()}\n{END}{after}"


def record(shown: dict[str, str]) -> None:
    """Writes the examples' output, and docs/dba.md."""
    for name, said in shown.items():
        (EXAMPLES / f"{name}.out").write_text(said, encoding="utf-8")
    DOCUMENT.write_text(document(), encoding="utf-8")
