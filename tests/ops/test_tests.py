"""The house of the tests: what one of its modules may hold, and what it may reach for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

LINES = 660  # what is longer is split by its nouns


def _modules(tree: Path) -> list[Path]:
    found = sorted((tree / "tests").rglob("*.py"))
    assert len(found) > 100
    return found


def _imported(module: Path) -> Iterator[str]:
    """Every name that a module imports, with its whole path."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_imports_a_module_of_tests(tree: Path) -> None:
    """What several modules share is in a module of its own, or is a fixture."""
    wrong = [
        f"{module.relative_to(tree)} imports {name}"
        for module in _modules(tree)
        for name in _imported(module)
        if name.startswith("tests.") and ".test_" in name
    ]
    assert wrong == []


def test_no_module_of_tests_is_too_long_to_be_read(tree: Path) -> None:
    lengths = {
        str(module.relative_to(tree)): len(module.read_text(encoding="utf-8").splitlines())
        for module in _modules(tree)
        if module.name.startswith("test_")
    }
    assert {name for name, length in lengths.items() if length > LINES} == set()
