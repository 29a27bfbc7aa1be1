"""The commands in README.md, run in their order, as they stand, in a copy of the tree.

The rules for whoever writes the README:

- Fenced blocks marked sh, bash, shell or console are run by one bash session, so that a variable
  set in one block is there in the next; blocks marked sql are run by psql as the owner of the data
  that `make run` made. Any command that fails, fails the test.
- The block that holds `make run` is started and left running; what comes before it is run before.
- `git clone ...`, `cd ...`, `make test` and what needs a machine of its own are not run:
  tests/readme.py lists how such lines begin. For a whole block, put
  `<!-- not run by the tests: why -->` on the line above it.
- What a reader has to fill in (a key that `make run` printed) is filled in by `_fill_in`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.readme import SHELLS, Block, commands_of, fenced_blocks
from tests.support import (
    Process,
    clean_environment,
    copy_tree,
    free_port,
    make_environment,
    wait_for,
)

_DEFAULT_PORT = 8000


def _fill_in(text: str, facts: dict[str, str], port: int) -> str:
    """What a reader would fill in from what `make run` printed."""
    text = re.sub(r"cbk_(test|live)_(\.\.\.|…|[A-Z_]+\b|<[^>]*>)", facts["api_key"], text)
    if port != _DEFAULT_PORT:  # another program has the port on this machine
        text = re.sub(rf"\b{_DEFAULT_PORT}\b", str(port), text)
    return text


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def blocks(tree: Path) -> list[Block]:
    return fenced_blocks((tree / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def clone(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which `make venv` has been done: its .venv finds this interpreter's
    packages and the copy's own server/."""
    clone = copy_tree(tree, tmp_path_factory.mktemp("readme") / "ciris-billing")
    programs = make_environment(clone / ".venv", clone)
    command = programs / "ciris-billing"
    command.write_text(
        f"#!{programs / 'python'}\nimport sys\nfrom server.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    for stamp in (".installed", ".installed-to-run"):
        (clone / ".venv" / stamp).touch()
    return clone


@dataclass(frozen=True)
class Run:
    """The README's `make run`, serving."""

    clone: Path
    process: Process
    facts: dict[str, str]
    port: int


@pytest.fixture(scope="module")
def make_run(clone: Path, blocks: list[Block]) -> Iterator[Run]:
    """Starts the first block that holds `make run`."""
    block = next(block for block in blocks if block.is_make_run)
    port = _DEFAULT_PORT if _is_free(_DEFAULT_PORT) else free_port()
    environment = {} if port == _DEFAULT_PORT else {"PORT": str(port)}
    script = f"set -e\n{commands_of(block)}\n"
    process = Process(["bash", "-c", script], environment, cwd=clone).start()
    try:
        found = clone / ".data" / "dev.json"

        def serving() -> bool:
            assert process.process.poll() is None, process.output
            return found.exists()

        wait_for(serving, "`make run` to serve", 60)
        yield Run(clone, process, json.loads(found.read_text()), port)
        # Ctrl-C ends it, as the README says.
        os.killpg(process.process.pid, 2)
        process.process.wait(60)
    finally:
        process.stop()


def test_the_readme_has_the_blocks_of_a_first_session(blocks: list[Block]) -> None:
    shells = [block for block in blocks if block.language in SHELLS and block.to_run]
    assert any(block.is_make_run for block in shells)
    assert any("make test" in block.text for block in shells)
    assert any("curl" in block.text and "/v1/billing/" in block.text for block in shells)
    assert any(block.language == "sql" or "psql" in block.text for block in blocks if block.to_run)


def test_make_run_as_the_readme_has_it_serves(make_run: Run) -> None:
    assert httpx2.get(f"{make_run.facts['base_url']}/health", verify=False).status_code == 200
    assert make_run.facts["api_key"] in make_run.process.output
    server = subprocess.run(
        [make_run.clone / ".venv/bin/python", "-c", "import server; print(server.__file__)"],
        check=True,
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert server.startswith(str(make_run.clone))  # the copy runs, not this tree


def test_the_readmes_commands_work_as_they_stand(make_run: Run, blocks: list[Block]) -> None:
    first = next(index for index, block in enumerate(blocks) if block.is_make_run)
    script = ["set -euo pipefail"]
    ran = 0
    for index, block in enumerate(blocks):
        if index == first or not block.to_run:
            continue
        if block.language == "sql":
            text = block.text
            script.append(
                f"echo '--- README.md line {block.line}'\n"
                f"psql '{make_run.facts['dsn']}' -X -v ON_ERROR_STOP=1 <<'END_OF_SQL'\n"
                f"{text}\nEND_OF_SQL"
            )
        elif block.language in SHELLS:
            text = re.sub(r"^\s*make run\b.*$", "", commands_of(block), flags=re.MULTILINE)
            script.append(f"echo '--- README.md line {block.line}'\n{text}")
        else:
            continue
        ran += bool(text.strip())
    assert ran > 1
    programs = f"{make_run.clone / '.venv/bin'}:{Path(sys.executable).parent}"
    done = subprocess.run(
        ["bash"],
        check=False,
        input=_fill_in("\n".join(script), make_run.facts, make_run.port),
        cwd=make_run.clone,
        env={**clean_environment(), "PATH": f"{programs}:{os.environ['PATH']}", "PAGER": "cat"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    # curl accepts any answer; a reader does not.
    assert '"detail"' not in done.stdout, done.stdout[-5000:]


def test_the_extraction_of_blocks_sees_what_a_reader_sees() -> None:
    text = (
        "# A\n```sh\nmake run\n```\ntext\n\n<!-- not run by the tests: it is long -->\n"
        "```sh\nsleep 1000\n```\n   ```sql\nSELECT 1;\n```\n````\n```\n````\n"
        "```console\n$ echo 1\n1\n$ cd x\n```\n"
    )
    found = fenced_blocks(text)
    assert [(block.line, block.language, block.to_run) for block in found] == [
        (2, "sh", True),
        (8, "sh", False),
        (11, "sql", True),
        (14, "", True),
        (17, "console", True),
    ]
    assert [block.is_make_run for block in found] == [True, False, False, False, False]
    assert commands_of(found[-1]) == "echo 1"
