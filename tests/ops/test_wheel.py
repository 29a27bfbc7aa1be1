"""The wheel: its contents, and that it works from an empty folder without the tree."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2
import pytest

from server.migrate import latest_step
from tests.support import (
    Process,
    TestCluster,
    charge_body,
    clean_environment,
    copy_tree,
    free_port,
    identity,
    make_environment,
    unique,
    wait_until_healthy,
)


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree."""
    copy = copy_tree(tree, tmp_path_factory.mktemp("tree"))
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(copy)]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = target.iterdir()
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder bin/ of an environment with the wheel. Its dependencies are found among this
    interpreter's packages; the tree is not on its path."""
    folder = tmp_path_factory.mktemp("environment")
    programs = make_environment(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "--quiet"]
    options = ["--no-deps", "--no-index", "--ignore-installed", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True)
    return programs


def test_the_wheel_holds_what_the_server_reads_and_no_tests(wheel: Path, tree: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("sql", "migrations", "templates", "static"):
        files = [path.name for path in (tree / folder).iterdir() if path.is_file()]
        assert len(files) > 0
        assert {f"server/{folder}/{name}" for name in files} <= names
    modules = {str(path.relative_to(tree)) for path in (tree / "server").rglob("*.py")}
    assert modules <= names
    assert "server/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"server"}
    assert not [name for name in names if "test" in name or "conftest" in name]


def test_it_migrates_and_serves_from_an_empty_folder(
    installed: Path, cluster: TestCluster, tmp_path: Path, tree: Path
) -> None:
    where = subprocess.run(
        [installed / "python", "-c", "import server; print(server.__file__)"],
        check=True,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert str(tree) not in where
    assert str(installed.parent) in where

    billing = installed / "ciris-billing"
    with cluster.database(template=None) as database:
        migrated = subprocess.run(
            [billing, "migrate"],
            check=False,
            cwd=tmp_path,
            env={**clean_environment(), "DATABASE_URL": database.dsn()},
            capture_output=True,
            text=True,
        )
        assert migrated.returncode == 0, migrated.stderr
        assert latest_step() in migrated.stdout
        key = database.create_key()
        port = free_port()
        process = Process(
            [str(billing), "serve", "--port", str(port), "--workers", "2"],
            {"DATABASE_URL": database.dsn("t_web")},
            cwd=tmp_path,
        ).start()
        try:
            base_url = f"http://127.0.0.1:{port}"
            wait_until_healthy(base_url, process)
            headers = {"X-API-Key": key.secret}
            with httpx2.Client(
                base_url=base_url, headers=headers, timeout=30, verify=False
            ) as client:
                user = unique()
                check = client.post("/v1/billing/credits/check", json=identity(user))
                assert check.status_code == 200
                charge = client.post("/v1/billing/charges", json=charge_body(user))
                assert charge.status_code == 201
                page = client.get("/docs")
                assert page.status_code == 200
                assert "/v1/billing/charges" in page.text
                assert client.get("/openapi.json").status_code == 200
                style = client.get("/static/docs.css")
                assert style.status_code == 200
                assert style.headers["content-type"].startswith("text/css")
        finally:
            assert process.stop() == 0, process.output
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_is_its_module_too(installed: Path, tmp_path: Path) -> None:
    texts = {
        subprocess.run(
            command, check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        for command in (
            [str(installed / "ciris-billing"), "--version"],
            [str(installed / "python"), "-m", "server", "--version"],
        )
    }
    assert len(texts) == 1
