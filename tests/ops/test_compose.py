"""docker-compose.yml: what it promises, and every command of ours in it, run here outside Docker
with the same arguments, files and secrets."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import yaml

from server.embedded import RARE_CHECKPOINTS
from tests.nginx import running_nginx, want_nginx
from tests.pgbouncer import want_pgbouncer
from tests.support import (
    BILLING,
    Process,
    as_postgres,
    charge_body,
    clean_environment,
    copy_tree,
    free_port,
    identity,
    unique,
    wait_for,
    wait_until_healthy,
    want_postgresql,
)

DOCKER_COMPOSE = shutil.which("docker-compose")
PROFILES = ("pgbouncer", "replica", "commands")
POSTGRES = Path("/usr/lib/postgresql/15/bin")
MIGRATE = "ciris-billing-migrate"
ENDS = {MIGRATE: "on-failure", "ciris-billing-stripe": "no"}
# Every character that could break a URL.
PASSWORD, ENCODED = "p@ss:w/o%r?d#'\"\\ $x", "p%40ss%3Aw%2Fo%25r%3Fd%23%27%22%5C%20%24x"


def _resolve(
    tree: Path, public_url: str = "https://billing.example.com", **environment: str
) -> subprocess.CompletedProcess[str]:
    if DOCKER_COMPOSE is None and os.environ.get("CI") != "true":
        pytest.skip("docker-compose is not installed")
    profiles = [argument for name in PROFILES for argument in ("--profile", name)]
    return subprocess.run(
        [
            DOCKER_COMPOSE or "docker-compose",
            "--file",
            tree / "docker-compose.yml",
            *profiles,
            "config",
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tree,
        env={**clean_environment(), "PUBLIC_BASE_URL": public_url, **environment},
    )


def _composed(tree: Path, **environment: str) -> dict[str, Any]:
    """The file as Compose reads it, with variables and anchors resolved."""
    resolved = _resolve(tree, **environment)
    assert resolved.returncode == 0, resolved.stderr
    return yaml.safe_load(resolved.stdout)


@pytest.fixture(scope="module")
def composed(tree: Path) -> dict[str, Any]:
    """All services, those of profiles too, with the version that `make env` would write."""
    version = re.findall(r"(?m)^version = (.+)$", (tree / "setup.cfg").read_text())[0]
    return _composed(tree, CIRIS_BILLING_VERSION=version)


@pytest.fixture(scope="module")
def services(composed: dict[str, Any]) -> dict[str, Any]:
    return composed["services"]


# What the file promises


def test_compose_accepts_the_file_and_would_refuse_a_wrong_one(tree: Path, tmp_path: Path) -> None:
    assert _resolve(tree).returncode == 0
    copy = copy_tree(tree, tmp_path / "tree")
    text = (copy / "docker-compose.yml").read_text()
    (copy / "docker-compose.yml").write_text(text.replace("read_only: true", "readonly: true"))
    refused = _resolve(copy)
    assert refused.returncode != 0
    assert "readonly" in refused.stderr


def test_without_a_public_address_nothing_is_started(tree: Path) -> None:
    refused = _resolve(tree, public_url="")
    assert refused.returncode != 0
    assert "PUBLIC_BASE_URL" in refused.stderr


def test_every_service_of_the_installation_is_there(services: dict[str, Any]) -> None:
    assert set(services) == {
        "ciris-billing-postgres",
        "ciris-billing-migrate",
        "ciris-billing-stripe",
        "ciris-billing-api",
        "ciris-billing-api-2",
        "nginx",
        "jaeger",
        "prometheus",
        "grafana",
        "pgbouncer",
        "ciris-billing-replica",
    }
    assert services["pgbouncer"]["profiles"] == ["pgbouncer"]
    assert services["ciris-billing-replica"]["profiles"] == ["replica"]


def test_all_that_is_shipped_has_the_settings_of_a_database_that_grows(
    services: dict[str, Any], tree: Path
) -> None:
    wanted = RARE_CHECKPOINTS | {"wal_compression": "lz4"}
    command = services["ciris-billing-postgres"]["command"]
    assert {f"-c{name}={value}" for name, value in wanted.items()} <= set(command)
    lines = (tree / "ops/postgres/primary.conf").read_text().splitlines()
    assert {f"{name} = {value}" for name, value in wanted.items()} <= set(lines)


def test_every_service_is_bounded_and_may_do_as_little_as_possible(
    services: dict[str, Any],
) -> None:
    for name, service in services.items():
        assert re.search(r":v?\d+(\.\d+)+(-[a-z0-9]+)?$", service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory"}, name
        assert service["logging"]["options"]["max-size"], name
        if name in ENDS:
            assert service["restart"] == ENDS[name], name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_only_nginx_is_published_beyond_this_machine(
    composed: dict[str, Any], services: dict[str, Any]
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"nginx", "jaeger", "prometheus", "grafana"}
    assert published.pop("nginx") == [
        {"published": 80, "target": 8080},
        {"published": 443, "target": 8443},
    ]
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)
    internal = {name for name, network in composed["networks"].items() if network.get("internal")}
    assert internal == {"app", "data", "telemetry"}
    for name in ("ciris-billing-postgres", "pgbouncer", "ciris-billing-replica"):
        assert set(services[name]["networks"]) == {"data"}
    assert "data" not in services["nginx"]["networks"]


def test_only_what_must_ask_somebody_has_a_way_out(services: dict[str, Any]) -> None:
    with_a_way_out = {name for name, one in services.items() if "egress" in one["networks"]}
    assert with_a_way_out == {"ciris-billing-api", "ciris-billing-api-2", "ciris-billing-stripe"}
    assert set(services[MIGRATE]["networks"]) == {"data"}
    assert services["ciris-billing-stripe"]["profiles"] == ["commands"]


def test_the_database_is_no_older_than_the_minor_release_that_closes_known_holes(
    services: dict[str, Any],
) -> None:
    for name in ("ciris-billing-postgres", "ciris-billing-replica"):
        match = re.fullmatch(r"postgres:17\.(\d+)-bookworm", services[name]["image"])
        assert match is not None
        assert int(match[1]) >= 12


def test_the_servers_believe_nobody_but_nginx_about_clients(services: dict[str, Any]) -> None:
    nginx = services["nginx"]["networks"]["app"]["ipv4_address"]
    upstreams = services["nginx"]["environment"]["PROXY_UPSTREAM_SERVERS"]
    for name in ("ciris-billing-api", "ciris-billing-api-2"):
        service = services[name]
        assert service["environment"]["TRUSTED_PROXIES"] == nginx
        address = service["networks"]["app"]["ipv4_address"]
        assert f"server {address}:{service['environment']['PORT']} " in upstreams


def test_every_file_that_is_mounted_is_in_the_tree(services: dict[str, Any], tree: Path) -> None:
    known = subprocess.run(
        ["git", "-C", tree, "ls-files", "--cached", "--others", "--exclude-standard"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.splitlines()
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source, _, mode = volume.split(":")
            if source.startswith("/"):
                path = str(Path(source).relative_to(tree))
                assert mode == "ro", (name, volume)
                assert any(file == path or file.startswith(f"{path}/") for file in known), volume


def test_every_setting_that_the_servers_are_given_is_one(
    services: dict[str, Any], tree: Path
) -> None:
    source = (tree / "server" / "config.py").read_text()
    names = set()
    for name in ("ciris-billing-api", MIGRATE):
        names |= set(services[name]["environment"])
    # Settings of other parts: the pooler, the replica and telemetry.
    names -= {"DATABASE_POOLER", "DATABASE_READ_URL_FILE"}
    for name in names:
        if not name.startswith("OTEL_"):
            known = [f'"{one}"' in source for one in (name, name.removesuffix("_FILE"))]
            assert any(known), name


def test_every_secret_is_made_by_make_secrets_and_ignored_by_git(
    composed: dict[str, Any], services: dict[str, Any], tree: Path, tmp_path: Path
) -> None:
    declared = {Path(secret["file"]).name for secret in composed["secrets"].values()}
    assert declared == set(composed["secrets"])
    used = {
        secret["source"] for service in services.values() for secret in service.get("secrets", ())
    }
    assert used == declared
    mentioned = set(re.findall(r"/run/secrets/(\w+)", (tree / "docker-compose.yml").read_text()))
    assert mentioned <= declared

    folder = tmp_path / "secrets"
    made = _make_secrets(tree, folder)
    assert {path.name for path in folder.iterdir()} == declared
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    values = {path.name: path.read_text() for path in folder.iterdir()}
    for value in values.values():
        assert value.strip() not in made
    assert _make_secrets(tree, folder) == ""
    assert {path.name: path.read_text() for path in folder.iterdir()} == values
    (folder / "grafana_password").unlink()
    _make_secrets(tree, folder)
    assert (folder / "grafana_password").read_text() != values["grafana_password"]
    for path in ("secrets/database_url", ".env"):
        ignored = subprocess.run(["git", "-C", tree, "check-ignore", "-q", path], check=False)
        assert ignored.returncode == 0


def _make_secrets(tree: Path, folder: Path, host: str = "billing.example.com") -> str:
    script = tree / "ops" / "make_secrets.sh"
    command = ["sh", str(script), str(folder), host]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _image(tree: Path) -> str:
    return str(_composed(tree)["services"]["ciris-billing-api"]["image"])


def _name_version(tree: Path, version: str) -> None:
    """`make env` in a checkout of this version."""
    setup = (tree / "setup.cfg").read_text()
    (tree / "setup.cfg").write_text(re.sub(r"(?m)^version = .+$", f"version = {version}", setup))
    subprocess.run(["make", "env"], check=True, cwd=tree)


def test_the_image_is_tagged_with_the_releases_version(tree: Path, tmp_path: Path) -> None:
    copy = copy_tree(tree, tmp_path / "tree")
    (copy / ".env").unlink(missing_ok=True)
    assert _image(copy) == "ciris-billing:local"
    for version in ("9.8.7", "9.9.0"):
        _name_version(copy, version)
        assert _image(copy) == f"ciris-billing:{version}"


def test_a_new_version_leaves_the_rest_of_the_environment_as_it_is(
    tree: Path, tmp_path: Path
) -> None:
    copy = copy_tree(tree, tmp_path / "tree")
    (copy / ".env").write_text("A='$b & \\c'\nCIRIS_BILLING_VERSION=0.1\n\n# end\n")
    (copy / ".env").chmod(0o600)
    _name_version(copy, "9.8.7")
    text = (copy / ".env").read_text()
    assert text == "A='$b & \\c'\nCIRIS_BILLING_VERSION=9.8.7\n\n# end\n"
    assert (copy / ".env").stat().st_mode & 0o777 == 0o600


def test_the_example_of_the_environment_names_what_the_file_reads(tree: Path) -> None:
    text = (tree / "docker-compose.yml").read_text()
    names = re.findall(r"^(\w+)=", (tree / ".env.example").read_text(), re.MULTILINE)
    assert names
    for name in names:
        assert f"${{{name}:" in text


def test_the_image_holds_no_tool_that_installs_and_no_secret(tree: Path) -> None:
    text = (tree / "Dockerfile").read_text()
    stages = text.split("\nFROM ")
    assert len(stages) == 3  # the text before the first stage, the builder, and the image
    final = stages[-1]
    assert "USER 10001:10001" in final
    assert "pip*" in final
    assert "apt-get" not in final
    assert "HEALTHCHECK" in final
    assert "COPY --from=builder" in final
    assert len(re.findall(r"^FROM python:3\.13\.\d+-slim-bookworm", text, re.MULTILINE)) == 2
    # Only files that are named go to the builder.
    ignored = (tree / ".dockerignore").read_text().splitlines()
    assert next(line for line in ignored if not line.startswith("#")) == "*"
    copied = set(re.findall(r"\./(\w+)$", text, re.MULTILINE)) | {
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    for name in copied:
        assert (tree / name).exists(), name


# What it runs


@dataclass
class Installation:
    """The services of docker-compose.yml, outside Docker. Their commands, environments and files
    are those of the file, except for ports, addresses and the paths of secrets."""

    services: dict[str, Any]
    folder: Path
    port: int  # of PostgreSQL
    stack: contextlib.ExitStack
    api_ports: dict[str, int] = field(default_factory=dict)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def environment(self, name: str) -> dict[str, str]:
        """A service's environment, with the paths of our secrets."""
        given = self.services[name]["environment"]
        return {
            key: str(value or "").replace("/run/secrets", str(self.secrets))
            for key, value in given.items()
            if not key.startswith("OTEL_")
        }

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm NAME ARGUMENTS`."""
        return subprocess.run(
            [BILLING, *(arguments or self.services[name]["command"])],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**clean_environment(), **self.environment(name)},
        )

    def serve(self, name: str) -> Process:
        """`docker compose up NAME`, for one of the servers."""
        port = self.api_ports[name] = free_port()
        environment = {**self.environment(name), "HOST": "127.0.0.1", "PORT": str(port)}
        environment |= {"TRUSTED_PROXIES": "127.0.0.1"}
        process = Process(
            [BILLING, *self.services[name]["command"]], environment, cwd=self.folder
        ).start()
        self.stack.callback(process.stop)
        wait_until_healthy(f"http://127.0.0.1:{port}", process)
        return process

    def check_health(self, name: str, *more: str, instead_of: str = "", here: str = "") -> int:
        """Runs a service's health check, with `here` for an address in it; returns its exit
        code."""
        program, *arguments = self.services[name]["healthcheck"]["test"][1:]
        if instead_of:
            assert instead_of in " ".join(arguments)
            arguments = [part.replace(instead_of, here) for part in arguments]
        return subprocess.run(
            [sys.executable if program == "python" else program, *arguments, *more],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": f"{POSTGRES}:{os.environ['PATH']}"},
        ).returncode


@pytest.fixture(scope="module")
def installation(tree: Path) -> Iterator[Installation]:
    """A cluster made as the official image makes it, with the project's script, then migrated."""
    want_postgresql(15)
    services = _composed(tree, public_url="https://localhost")["services"]
    with (
        tempfile.TemporaryDirectory(prefix="ciris-test-compose-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        port = free_port()
        installation = Installation(services, folder, port, stack)
        _make_secrets(tree, installation.secrets, "localhost")
        _set_password(installation, port)
        for path in (folder, installation.secrets):
            path.chmod(0o755)  # the containers' accounts can read them where they are mounted
        _make_cluster(installation)
        server = _start_postgres(installation, "ciris-billing-postgres", "primary", port)
        _run_init_scripts(tree, installation)
        server.process.send_signal(signal.SIGHUP)  # makes it read pg_hba.conf again
        yield installation


def _set_password(installation: Installation, port: int) -> None:
    """Points the URLs to this machine, and gives the server's login the worst possible password."""
    for name in ("database_url", "migration_database_url"):
        path = installation.secrets / name
        url = path.read_text().replace("ciris-billing-postgres:5432", f"127.0.0.1:{port}")
        if name == "database_url":
            url = re.sub(r"//billing_web:[^@]*@", lambda _: f"//billing_web:{ENCODED}@", url)
            url = url.replace("postgresql://", "postgresql+asyncpg://")
        path.chmod(0o644)
        path.write_text(url)
    users = installation.secrets / "pgbouncer_users"
    users.chmod(0o644)
    users.write_text('"billing_web" "{}"\n'.format(PASSWORD.replace('"', '""')))


def _make_cluster(installation: Installation) -> None:
    data = installation.folder / "primary"
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    arguments = installation.services["ciris-billing-postgres"]["environment"][
        "POSTGRES_INITDB_ARGS"
    ].split()
    subprocess.run(
        as_postgres(
            POSTGRES / "initdb",
            "--username=postgres",
            f"--pwfile={installation.secrets / 'postgres_password'}",
            "--no-sync",
            *arguments,
            data,
        ),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")  # as the official image does


def _start_postgres(
    installation: Installation, service: str, folder: str, port: int, *before: object
) -> Process:
    """The service's command with its own arguments, and the address to listen on."""
    data = installation.folder / folder
    command = installation.services[service]["command"]
    assert command[0] == "postgres"
    environment = {
        **{key: str(value) for key, value in installation.environment(service).items()},
        "PATH": f"{POSTGRES}:{os.environ['PATH']}",
        "PGDATA": str(data),
        "PRIMARY_HOST": "127.0.0.1",
        "PRIMARY_PORT": str(installation.port),
    }
    process = Process(
        as_postgres(
            *before,
            *command,
            "-cfsync=off",
            "-clisten_addresses=127.0.0.1",
            f"-cport={port}",
            f"-cunix_socket_directories={installation.folder / folder}",
        ),
        environment,
    ).start()
    installation.stack.callback(process.stop)
    wait_for(
        lambda: (
            process.process.poll() is not None
            or installation.check_health(service, f"--port={port}") == 0
        ),
        "PostgreSQL",
    )
    assert process.process.poll() is None, process.output
    return process


def _run_init_scripts(tree: Path, installation: Installation) -> None:
    data = installation.folder / "primary"
    for script in sorted((tree / "ops" / "postgres" / "initdb").iterdir()):
        # The official image runs executable scripts; it would source any other.
        ran = subprocess.run(
            [script],
            check=False,
            capture_output=True,
            text=True,
            env={
                **clean_environment(),
                "PGHOST": str(data),
                "PGPORT": str(installation.port),
                "PGDATA": str(data),
                "POSTGRES_USER": "postgres",
                "SECRETS_FOLDER": str(installation.secrets),
            },
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == ran.stderr == ""


def test_the_whole_installation_works_with_its_secrets_in_files(
    installation: Installation, tree: Path
) -> None:
    want_nginx()
    migrated = installation.run(MIGRATE)
    assert migrated.returncode == 0, migrated.stderr
    assert installation.run(MIGRATE).returncode == 0  # and again
    key = installation.run(MIGRATE, "keys", "create", "my-agent", "--json")
    assert key.returncode == 0, key.stderr
    secret = re.search(r"cbk_live_[\w-]{43}", key.stdout)
    assert secret is not None

    first = installation.serve("ciris-billing-api")
    installation.serve("ciris-billing-api-2")
    # The servers' login has no other rights, so there was nothing to give up.
    assert "SET ROLE" not in first.output
    for name, port in installation.api_ports.items():
        assert installation.check_health(name, instead_of=":8000", here=f":{port}") == 0
    nobody = f":{free_port()}"
    assert installation.check_health(name, instead_of=":8000", here=nobody) != 0

    environment = installation.environment("nginx")
    upstreams = environment["PROXY_UPSTREAM_SERVERS"]
    for (name, port), inside in zip(
        installation.api_ports.items(), ("172.31.250.10:8000", "172.31.250.11:8000"), strict=True
    ):
        assert inside in upstreams, name
        upstreams = upstreams.replace(inside, f"127.0.0.1:{port}")
    own = {"PORT", "FOLDER", "LOG", "URL", "SERVERS"}  # the helper chooses these
    same: dict[str, Any] = {
        key: value
        for key, value in environment.items()
        if key.startswith("PROXY_") and key.rpartition("_")[2] not in own
    }
    with running_nginx([], **same, PROXY_UPSTREAM_SERVERS=upstreams) as proxy:
        assert [*proxy.arguments[:3], "-g"] == ["/usr/sbin/nginx", "-e", "stderr", "-g"]
        command = installation.services["nginx"]["command"]
        assert command[:4] == ["nginx", "-e", "stderr", "-g"]
        assert command[4].replace("/tmp", str(proxy.folder)) in proxy.arguments[-1]
        health = proxy.http_url.removeprefix("http://")
        assert installation.check_health("nginx", instead_of="127.0.0.1:8080", here=health) == 0
        # The certificate of `make secrets`.
        url = proxy.url.replace("127.0.0.1", "localhost")
        context = ssl.create_default_context(cafile=installation.secrets / "tls_certificate")
        headers = {"X-API-Key": secret[0]}
        with httpx2.Client(base_url=url, verify=context, headers=headers, timeout=20) as client:
            user = unique()
            assert client.post("/v1/billing/credits/check", json=identity(user)).status_code == 200
            statuses = [
                client.post("/v1/billing/charges", json=charge_body(user)).status_code
                for _ in range(4)
            ]
            assert statuses == [201, 201, 201, 402]  # three uses are free
            assert client.get("/admin").status_code == 303  # the console is open

    verified = installation.run(MIGRATE, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_through_pgbouncer_the_servers_login_reaches_the_database(
    installation: Installation, tree: Path
) -> None:
    want_pgbouncer()
    service = installation.services["pgbouncer"]
    [mount] = service["volumes"]
    source, target, _ = mount.split(":")
    assert service["command"] == [target]
    port = free_port()
    text = (
        Path(source)
        .read_text()
        .replace("ciris-billing-postgres port=5432", f"127.0.0.1 port={installation.port}")
        .replace("/run/secrets", str(installation.secrets))
        .replace("listen_port = 6432", f"listen_port = {port}")
        .replace("listen_addr = *", "listen_addr = 127.0.0.1")
    )
    configuration = installation.folder / "pgbouncer.ini"
    configuration.write_text(text)
    configuration.chmod(0o644)
    assert service["entrypoint"] == ["pgbouncer"]
    bouncer = Process(as_postgres("/usr/sbin/pgbouncer", configuration)).start()
    try:
        wait_for(lambda: bouncer.process.poll() is not None or _listens(port), "PgBouncer")
        with psycopg.connect(
            host="127.0.0.1", port=port, user="billing_web", password=PASSWORD, dbname="billing"
        ) as connection:
            assert connection.execute("SELECT session_user").fetchone() == ("billing_web",)
    finally:
        bouncer.stop()
        print(bouncer.output)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_replica_copies_the_database_and_follows_it(
    installation: Installation, tree: Path
) -> None:
    service = installation.services["ciris-billing-replica"]
    program, script = service["entrypoint"]
    assert any(volume.endswith(f"replica.sh:{script}:ro") for volume in service["volumes"])
    place = installation.folder / "replica"
    place.mkdir()
    if os.geteuid() == 0:
        shutil.chown(place, "postgres", "postgres")
    port = free_port()
    source = tree / "ops" / "postgres" / "replica.sh"
    copied = installation.folder / "replica.sh"
    shutil.copy(source, copied)
    start = (installation, "ciris-billing-replica", "replica/copy", port, program, copied)
    superuser = (installation.secrets / "postgres_password").read_text().strip()

    def ask(at: int, statement: str) -> Any:
        with psycopg.connect(
            host="127.0.0.1", port=at, user="postgres", password=superuser, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchone() if cursor.description else None

    replica = _start_postgres(*start)
    assert ask(port, "SELECT pg_is_in_recovery()") == (True,)
    ask(installation.port, "CREATE TABLE public.told AS SELECT 42 AS answer")
    told = "SELECT to_regclass('public.told') IS NOT NULL"
    wait_for(lambda: ask(port, told) == (True,), "the replica to follow")
    assert ask(installation.port, "SELECT application_name FROM pg_stat_replication") == (
        "replica1",
    )
    # When it is started again, it goes on with its data.
    replica.stop()
    _start_postgres(*start)
    ask(installation.port, "DROP TABLE public.told")
    wait_for(lambda: ask(port, told) == (False,), "the replica to follow")
