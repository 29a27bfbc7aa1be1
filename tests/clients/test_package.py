"""The client package as a user gets it: installed as its README says, in an environment without
the tree, it does what the README shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import ciris_billing_client
import pytest
from ciris_billing_client import Billing, User

from tests.readme import SHELLS, commands_of, fenced_blocks
from tests.support import Service, clean_environment, copy_tree, make_environment

ADA = User("oauth:google", "ada")  # the README's user


@pytest.fixture(scope="module")
def checkout(tree: Path, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which `make run` has left its key."""
    copy = copy_tree(tree, tmp_path_factory.mktemp("client") / "ciris-billing")
    (copy / ".data").mkdir()
    (copy / ".data" / "api_key").write_text(f"{service.key.secret}\n")
    return copy


def test_the_readmes_commands_and_code_work_as_they_stand(
    checkout: Path, service: Service, tmp_path: Path
) -> None:
    blocks = fenced_blocks((checkout / "clients/python/README.md").read_text(encoding="utf-8"))
    shell = [commands_of(block) for block in blocks if block.language in SHELLS and block.to_run]
    code = [block.text for block in blocks if block.language == "python" and block.to_run]
    assert len(shell) > 1
    assert len(code) > 5
    with Billing(service.base_url, service.key.secret) as billing:
        billing.check(ADA)
        billing.add_credits(ADA, 20, description="welcome")
    port = service.base_url.rpartition(":")[2]
    script = re.sub(r"\b8000\b", port, "\n".join(["set -eux", *shell, "python -W error code.py"]))
    (checkout / "code.py").write_text("\n".join([*code, "billing.close()"]))
    programs = make_environment(tmp_path / "environment")
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=checkout,
        env={**clean_environment(), "PATH": f"{programs}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "free 2 20" in done.stdout  # Ada's first charge
    assert "captured 20" in done.stdout
    assert "not charged: account_not_found" in done.stdout
    assert "\nTrue\n400\n" in done.stdout  # a repeat, and a webhook that is none


def test_the_readme_names_every_method_and_every_error(tree: Path) -> None:
    text = (tree / "clients/python/README.md").read_text(encoding="utf-8")
    methods = {name for name in vars(Billing) if not name.startswith("_")}
    errors = {
        name
        for name, kind in vars(ciris_billing_client).items()
        if isinstance(kind, type) and issubclass(kind, ciris_billing_client.BillingError)
    }
    names = methods | errors - {"BillingError", "UnreadableAnswer"} - {"run"}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_the_wheel_holds_the_package_alone_with_its_types_and_licence(
    checkout: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path)]
    subprocess.run([*command, checkout / "clients/python"], check=True, capture_output=True)
    [wheel] = tmp_path.iterdir()
    assert wheel.name.startswith("ciris_billing_client-")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "ciris_billing_client/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "ciris_billing_client"
    }
    modules = {
        path.name for path in (checkout / "clients/python/ciris_billing_client").glob("*.py")
    }
    assert {f"ciris_billing_client/{name}" for name in modules} <= names
