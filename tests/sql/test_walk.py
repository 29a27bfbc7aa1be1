"""The walk of docs/dba.md, as a login of billing_dba in one psql session: every example shows what
is recorded, and the document shows the examples as they are."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess

import pytest

from server.embedded import find_binaries
from tests.support import Database, clean_environment
from tests.walk import DOCUMENT, EXAMPLES, PSQLRC, document, parts, record, scripts, walk

MOST_SECONDS = 120
TASKS = 26


def test_every_example_shows_what_is_recorded_and_in_the_document(database: Database) -> None:
    shown, seconds = walk(database)
    if os.environ.get("GOLDEN_UPDATE") == "1":
        record(shown)
    recorded = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.out")}
    assert shown == recorded
    assert DOCUMENT.read_text(encoding="utf-8") == document()
    assert seconds < MOST_SECONDS
    assert database.execute("SELECT * FROM billing.verify_ledger()", user="t_dba") == []


def test_every_example_has_a_title_an_explanation_and_statements_within_100_columns() -> None:
    assert len(scripts()) == TASKS + 1  # the first makes what the others need
    for script in scripts():
        title, explanation, statements = parts(script)
        assert title, script
        assert title[0].isupper(), script
        assert explanation.endswith(".\n"), script
        assert "SELECT" in statements, script
        shown = script.with_suffix(".out").read_text(encoding="utf-8")
        wide = [line for line in (statements + shown).splitlines() if len(line) > 100]
        assert wide == []
        # What fails is a refusal that the example shows, and no slip in it.
        assert re.findall(r"^ERROR: .*\n(?!DETAIL:  \{)", shown, re.MULTILINE) == [], script


def test_every_shortcut_of_the_psqlrc_answers_and_null_is_seen(
    module_database: Database,
) -> None:
    shortcuts = re.findall(r"^\\set ([a-z]+) '(?:\\\\prompt|SELECT)", PSQLRC.read_text(), re.M)
    assert {"help", "man", "find", "problems", "waits"} <= set(shortcuts)
    answers = "".join(f"\\echo = {name}\n:{name}\n" for name in shortcuts)
    answers = re.sub(r"(:man|:find)\n", r"\1\nada\n", answers)
    done = _psql(module_database, answers + "SELECT NULL AS nothing;\n")
    assert "ERROR" not in done.stderr  # it has the questions
    shown = dict(re.findall(r"^= (\w+)\n(.*?)(?=^= |\Z)", done.stdout, re.M | re.S))
    assert list(shown) == shortcuts
    for name, said in shown.items():
        assert re.search(r"\(\d+ rows?\)", said), name
        assert "Time: " in said, name
    assert "(null)" in shown[shortcuts[-1]]


def _psql(database: Database, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_binaries(18) / "psql", "--quiet", database.dsn("t_dba")],
        input=text, capture_output=True, text=True, check=True,
        env={**clean_environment(), "PSQLRC": str(PSQLRC)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "loud"), [(None, True), ("prod-eu", True), ("staging", False)]
)
def test_the_prompt_says_production_loudly_unless_the_database_is_named_otherwise(
    database: Database, environment: str | None, loud: bool
) -> None:
    if environment:
        database.execute(
            f"ALTER DATABASE {database.name} SET billing.environment = '{environment}'"
        )
    prompt = _prompt(database)
    assert (environment or "PRODUCTION") in prompt
    assert ("\x1b[1;97;41m" in prompt) == loud
    assert f"t_dba@{database.name}" in prompt


def _prompt(database: Database) -> str:
    """What psql shows on a terminal before the first statement."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [find_binaries(18) / "psql", database.dsn("t_dba")],
        stdin=its, stdout=its, stderr=its,
        env={**clean_environment(), "PSQLRC": str(PSQLRC), "TERM": "xterm"},
    )  # fmt: skip
    os.close(its)
    shown = ""
    try:
        while not re.search(r"=.*> $", shown) and select.select([ours], [], [], 30)[0]:
            shown += os.read(ours, 4096).decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown
