"""What `make run` and `make venv` install, and what they print meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import clean_environment

ROOT = Path(__file__).resolve().parents[2]
# The smallest build backend that pip can install without downloads. Like setuptools, it prints
# warnings.
BACKEND = """
import warnings, zipfile
def build_editable(folder, *_):
    warnings.warn("Please be careful with folders")
    {fault}
    with zipfile.ZipFile(f"{{folder}}/tiny-1-py3-none-any.whl", "w") as wheel:
        for name, text in {{
            "METADATA": "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n",
            "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "RECORD": "",
        }}.items():
            wheel.writestr(f"tiny-1.dist-info/{{name}}", text)
    return "tiny-1-py3-none-any.whl"
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1"
"""


def install(folder: Path, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Runs ops/install.py for an empty project in `folder`."""
    (folder / "ops").mkdir()
    shutil.copy(ROOT / "ops" / "install.py", folder / "ops")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND.format(fault=fault))
    return subprocess.run(
        [sys.executable, "ops/install.py", "embedded"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean_environment(),
        timeout=300,
    )


def test_each_step_is_named_and_no_warning_of_the_build_is_shown(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Install 1 of 2" in done.stdout
    assert "Install 2 of 2" in done.stdout
    assert "1 packages installed" in done.stdout
    assert "careful" not in done.stdout + done.stderr
    assert (tmp_path / ".venv" / "bin" / "python").exists()


def test_what_pip_says_is_shown_when_it_fails(tmp_path: Path) -> None:
    done = install(tmp_path, "raise SystemExit('the disk is full')")
    assert done.returncode != 0
    assert "the disk is full" in done.stderr


@pytest.mark.parametrize(("goal", "tested"), [("run", False), ("venv", True)])
def test_only_developing_installs_what_tests_need(tmp_path: Path, goal: str, tested: bool) -> None:
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "--dry-run", goal], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    [command] = [line for line in done.stdout.splitlines() if "ops/install.py" in line]
    assert "embedded" in command
    assert ("test" in command.split()) is tested
