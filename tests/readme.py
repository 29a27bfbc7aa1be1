"""The fenced blocks of a README, and what of them tests run."""

from __future__ import annotations

import re
from dataclasses import dataclass

SHELLS = ("sh", "bash", "shell", "console")
_SKIPPED = ("git clone", "cd ", "make test", "make bench", "make lint", "docker ", "sudo ")
_NOT_RUN = "<!-- not run by the tests:"


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text; whether it is to be run."""

    line: int
    language: str
    text: str
    to_run: bool = True

    @property
    def is_make_run(self) -> bool:
        return self.language in SHELLS and re.search(r"^\s*make run\b", self.text, re.M) is not None


def fenced_blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a text, in order."""
    blocks: list[Block] = []
    lines = markdown.splitlines()
    inside: tuple[int, str, str] | None = None
    text: list[str] = []
    for number, line in enumerate(lines, 1):
        fence = re.match(r"^ {0,3}(```+|~~~+)\s*(\w*)", line)
        if inside is None:
            if fence:
                inside, text = (number, fence[1], fence[2].lower()), []
        elif fence and fence[1].startswith(inside[1]) and not fence[2]:
            before = [previous for previous in lines[: inside[0] - 1] if previous.strip()]
            to_run = not (before and before[-1].strip().startswith(_NOT_RUN))
            blocks.append(Block(inside[0], inside[2], "\n".join(text), to_run))
            inside = None
        else:
            text.append(line)
    assert inside is None, f"the block in line {inside} has no end"
    return blocks


def commands_of(block: Block) -> str:
    """A shell block without prompts, output and what is not run."""
    lines = block.text.splitlines()
    if block.language == "console" or any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith(("$ ", "> "))]
    return "\n".join(line for line in lines if not line.lstrip().startswith(_SKIPPED))
