"""The documents: whatever refers to one, to a heading of it or to a file finds it, and the
release's version stands in one place.

References are looked for in every tracked text file, across line ends and comment marks:

- the name of a document: `docs/api.md`, or `api.md` for one in docs/ or at the root, also with
  the #anchor of a heading;
- a heading after the name: docs/payments.md, "Reconcile";
- sections after the name of a document whose headings are numbered: contract.md 2.7 and 8.8;
- in a document, a relative link;
- in a document but the changelog, which tells of the past, a file of the tree between backticks.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from server.routes import ROUTES
from tests.support import copy_tree
from tests.walk import anchor_of

_FOLDERS = (
    "bench",
    "docs",
    "examples",
    "migrations",
    "nginx",
    "ops",
    "server",
    "sql",
    "templates",
    "tests",
)
_LINE_END = re.compile(r"[ \t]*\n[ \t]*(?:#|--|//)?[ \t]*")
_DOCUMENT = re.compile(r"(?<![\w./-])(?:\.{1,2}/)*(?:docs/)?[A-Za-z][\w-]*\.md\b")
_HEADING = re.compile(r'[`)\]]*(?:\([\w./-]+\))?, "([^"]+)"')
_ANCHOR = re.compile(r"#([\w-]+)")
_SECTIONS = re.compile(r"`? ((?:(?:,|;|:|and|mended by|section) ?|\d+(?:\.\d+)* ?)+)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(rf"`((?:{'|'.join(_FOLDERS)})/[\w./*-]+|[\w./-]+\.(?:py|sql))`")
_MADE_BY_RUNS = ("bench/results/",)  # ignored by git
_SCHEME = re.compile(r"[a-z]+:")


def dangling(tree: Path) -> list[str]:
    """References that lead nowhere, as "file: reference". The examples in this file do not
    count."""
    names = _tracked(tree)
    headings = {name: _headings(tree / name) for name in names if name.endswith(".md")}
    return [
        f"{name}: {reference}"
        for name in names
        if not name.endswith(Path(__file__).name)
        for reference in _dangling_in(name, _text(tree / name), set(names), headings)
    ]


def _tracked(tree: Path) -> list[str]:
    options = ["-z", "--cached", "--others", "--exclude-standard"]
    command = ["git", "-C", str(tree), "ls-files", *options]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [name for name in listed.split("\0") if name and (tree / name).is_file()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def _headings(document: Path) -> list[str]:
    """The headings, without code marks."""
    fenceless = re.sub(r"(?ms)^```.*?^```", "", document.read_text(encoding="utf-8"))
    return [text.replace("`", "") for text in re.findall(r"(?m)^#+ (.+)$", fenceless)]


def _dangling_in(
    name: str, text: str, names: set[str], headings: dict[str, list[str]]
) -> Iterator[str]:
    flat = _LINE_END.sub(" ", text)
    for mention in _DOCUMENT.finditer(flat):
        document = _document(name, mention[0], names)
        if document is None:
            yield mention[0]
            continue
        anchor = _ANCHOR.match(flat, mention.end())
        if anchor is not None and anchor[1] not in map(anchor_of, headings[document]):
            yield mention[0] + anchor[0]
        heading = _HEADING.match(flat, mention.end())
        if heading is not None and heading[1].replace("`", "") not in headings[document]:
            yield f'{mention[0]}, "{heading[1]}"'
        sections = _SECTIONS.match(flat, mention.end())
        for number in re.findall(r"\d+(?:\.\d+)*", sections[1] if sections else ""):
            if not any(re.match(rf"{number}\.? ", text) for text in headings[document]):
                yield f"{mention[0]} {number}"
    if name.endswith(".md"):
        yield from _dangling_links(name, text, names, headings)
    if name.endswith(".md") and name != "CHANGELOG.md":
        for path in _FILE.findall(text):
            if path not in _MADE_BY_RUNS and not any(_is_file(path, other) for other in names):
                yield path


def _document(name: str, mention: str, names: set[str]) -> str | None:
    """The document that a mention in the file `name` means."""
    bare = mention.lstrip("./")
    beside = (Path(name).parent / bare).as_posix()
    return next((path for path in (bare, beside, f"docs/{bare}") if path in names), None)


def _dangling_links(
    name: str, text: str, names: set[str], headings: dict[str, list[str]]
) -> Iterator[str]:
    folders = {parent.as_posix() for path in names for parent in Path(path).parents}
    for target in _LINK.findall(text):
        if _SCHEME.match(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = _normal(Path(name).parent / path) if path else name
        anchors = {anchor_of(heading) for heading in headings.get(file, [])}
        if (file not in names and file not in folders) or (anchor and anchor not in anchors):
            yield f"]({target})"


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _is_file(mention: str, name: str) -> bool:
    """Whether a mention is the name of a file: in full, by its end, by a pattern, or as a
    folder."""
    if mention.endswith("/"):
        return f"/{name}".rfind(f"/{mention}") >= 0
    pattern = re.escape(mention).replace(r"\*", "[^/]*")
    return re.search(rf"(?:^|/){pattern}(?:/|$)", name) is not None


def test_every_reference_to_a_document_a_heading_or_a_file_leads_somewhere(tree: Path) -> None:
    assert dangling(tree) == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("server/a.py", '"""As the books have it (contarct.md)."""\n', "contarct.md"),
        ("server/a.py", "# As docs/nothing.md says.\n", "docs/nothing.md"),
        ("server/a.py", "# contract.md 2.7,\n# 8.99: no\n", "contract.md 8.99"),
        ("server/a.py", "# (contract.md 5, mended by 8.88)\n", "contract.md 8.88"),
        ("ops/a.yml", "runbook: docs/alerts.md#gone\n", "docs/alerts.md#gone"),
        ("sql/a.sql", '-- docs/dba.md,\n-- "No such heading"\n', 'docs/dba.md, "No such heading"'),
        ("docs/a.md", '[dba.md](dba.md), "Nothing"\n', 'dba.md, "Nothing"'),
        ("docs/a.md", "[here](../docs/gone.md)\n", "](../docs/gone.md)"),
        ("docs/a.md", "[here](dba.md#gone)\n", "](dba.md#gone)"),
        ("docs/a.md", "`server/no_such_module.py` does it.\n", "server/no_such_module.py"),
        ("docs/a.md", "`no_such_folder/module.py` does it.\n", "no_such_folder/module.py"),
        ("README.md", "`ops/nowhere/` has it.\n", "ops/nowhere/"),
    ],
)
def test_a_reference_that_leads_nowhere_is_found(
    tree: Path, tmp_path: Path, name: str, text: str, found: str
) -> None:
    copy = _repository(tree, tmp_path)
    (copy / name).write_text(text)
    assert f"{name}: {found}" in dangling(copy)


def test_a_reference_that_leads_somewhere_is_none_to_complain_of(
    tree: Path, tmp_path: Path
) -> None:
    copy = _repository(tree, tmp_path)
    (copy / "docs" / "a.md").write_text(
        '[dba.md](dba.md), "Roles", [dba.md](dba.md#roles), docs/dba.md, "The tables (schema\n'
        'billing_data)", `routes.py`, `sql/load.sql`, `sql/`, [sql](../sql/), `sql/load*.sql`,'
        " contract.md 2.7, 2.8 and 8.8, [elsewhere](https://example.com/x.html)\n"
    )
    assert [found for found in dangling(copy) if found.startswith("docs/a.md")] == []


def _repository(tree: Path, folder: Path) -> Path:
    copy = copy_tree(tree, folder / "tree")
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    return copy


def _calls(text: str, base: str = "") -> set[str]:
    """The paths that a text names between backticks, some after a method."""
    return {base + path for path in re.findall(r"`(?:[A-Z]+ )?(/[\w/{}:.-]+)`", text)}


def test_the_contract_tells_served_calls_from_those_of_later(tree: Path) -> None:
    contract = (tree / "docs" / "contract.md").read_text()
    added, later = contract.split("\n## 10. ")[1].split("\n## 17. ")[0].split("\n## 11. ")
    for_agents, for_staff = added.split("\n### 10.3 ")
    served = {route.path for route in ROUTES}
    named = _calls(for_agents) | _calls(for_staff, "/admin/api")
    assert len(named) > 60
    assert named - served - {"/admin/api/admin/api"} == set()
    kept = {"/v1/billing/credits/check", "/v1/billing/charges"}
    described = _calls(later) | set(re.findall(r"(?m)^###? .*(?:GET|POST) (/\S+)$", later))
    assert len(described) > 10
    assert described & served == kept


def test_the_releases_version_stands_in_one_place(tree: Path) -> None:
    setup = (tree / "setup.cfg").read_text()
    [version] = re.findall(r"(?m)^version = (\S+)$", setup)
    word = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w.]*\w)")
    told = [name for name in _tracked(tree) if word.search(_text(tree / name))]
    allowed = {"setup.cfg", "CHANGELOG.md"}
    assert {name for name in told if not name.startswith(("tests/", "bench/results/"))} == allowed


def test_each_release_in_the_changelog_has_its_day(tree: Path) -> None:
    releases = re.findall(r"(?m)^## (.+)$", (tree / "CHANGELOG.md").read_text())
    assert releases[0] == "Unreleased"
    days = []
    for release in releases[1:]:
        form = re.fullmatch(r"\d+\.\d+\.\d+ - (\d{4}-\d{2}-\d{2})", release)
        assert form is not None, release
        days.append(form[1])
    assert days == sorted(days, reverse=True)


def test_documents_name_no_tag_of_a_release_that_does_not_exist(tree: Path) -> None:
    tags = subprocess.run(
        ["git", "-C", tree, "tag", "--list"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    for name in _tracked(tree):
        if name.endswith(".md"):
            text = re.sub(r"https?://\S+", "", _text(tree / name))
            for tag in re.findall(r"\bv\d+\.\d+\.\d+\b", text):
                assert tag in tags, f"{name}: {tag}"
