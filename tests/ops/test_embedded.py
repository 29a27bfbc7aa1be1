"""server/embedded.py against real PostgreSQL servers, real crashes and real accounts."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from server import embedded
from server.embedded import Cluster, EmbeddedError, find_binaries, growing_settings
from tests.support import want_postgresql

# These tests kill processes and not the machine, so they need not wait for the disk.
SETTINGS = {"fsync": "off"}

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(
    not ROOT and os.environ.get("CI") != "true",  # in CI nothing is skipped
    reason="needs root, to run programs as other accounts",
)

Starting = Callable[[Cluster], "subprocess.Popen[str]"]

# Starts the cluster in argv[1] and then waits to be killed.
STARTER = """
import signal, sys
from pathlib import Path
from server.embedded import Cluster
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background
Cluster(Path(sys.argv[1]), Path(sys.argv[2])).start()
print("started", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def binaries() -> Path:
    return find_binaries(18)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, binaries: Path) -> Iterator[Path]:
    """A stopped cluster's folder, to be copied. As root, its start has also made the binaries
    readable for others."""
    made = Cluster(tmp_path_factory.mktemp("template"), binaries, settings=SETTINGS)
    made.start()
    leave_a_mark(made)
    made.stop()
    yield made.directory
    remove(made)


@pytest.fixture
def fresh(tmp_path: Path, binaries: Path) -> Iterator[Cluster]:
    """A cluster that does not exist yet."""
    cluster = Cluster(tmp_path / "cluster", binaries, settings=SETTINGS)
    yield cluster
    remove(cluster)


@pytest.fixture
def cluster(tmp_path: Path, binaries: Path, template: Path) -> Iterator[Cluster]:
    """A stopped cluster that contains the mark."""
    folder = shutil.copytree(template, tmp_path / "cluster")
    cluster = Cluster(folder, binaries, settings=SETTINGS)
    yield cluster
    remove(cluster)


@pytest.fixture
def users_folder() -> Iterator[Path]:
    """A folder of an ordinary user. It is not in tmp_path, which only its creator may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ciris-test-"))
    if ROOT:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start_elsewhere() -> Iterator[Starting]:
    """Starts a cluster from another process, in a session of its own, as a terminal does."""
    starters = []

    def start(cluster: Cluster) -> subprocess.Popen[str]:
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTER, cluster.directory, cluster.binaries],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(embedded.__file__).parents[1],
            start_new_session=True,
        )
        starters.append(starter)
        return starter

    yield start
    for starter in starters:
        starter.kill()
        starter.communicate()


def remove(cluster: Cluster) -> None:
    cluster.stop()
    if cluster.directory.exists():
        shutil.rmtree(cluster.directory)


def ask(cluster: Cluster, sql: str) -> str:
    command: list[str | Path] = [cluster.binaries / "psql", "-XAt", "-c", sql, cluster.dsn()]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return answer.strip()


def server_pid(cluster: Cluster) -> int:
    return int((cluster.directory / "pg" / "postmaster.pid").read_text().split()[0])


def leave_a_mark(cluster: Cluster) -> None:
    ask(cluster, "CREATE TABLE mark AS SELECT 'kept' AS state")


def has_the_mark(cluster: Cluster) -> bool:
    return ask(cluster, "SELECT state FROM mark") == "kept"


def socket_folder(cluster: Cluster) -> Path:
    return Path(ask(cluster, "SHOW unix_socket_directories").strip('"').replace('""', '"'))


def alive(pid: int) -> bool:
    """Whether a process runs. A process that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def as_ordinary_user(action: Callable[[], None]) -> None:
    """Run an action without root's rights, in a forked child, because other accounts may be unable
    to read the interpreter and this repository."""

    def become_nobody() -> None:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        action()

    if not ROOT:
        action()
        return
    child = multiprocessing.get_context("fork").Process(target=become_nobody)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("version", [18, 16])
def test_a_cluster_is_made_once_and_keeps_its_data(tmp_path: Path, version: int) -> None:
    cluster = Cluster(tmp_path / "c", find_binaries(version), settings={"work_mem": "5MB"})
    try:
        assert not cluster.running
        cluster.start()
        assert cluster.running
        assert ask(cluster, "SHOW server_version_num").startswith(str(version))
        assert ask(cluster, "SHOW data_checksums") == "on"
        assert ask(cluster, "SHOW server_encoding") == "UTF8"
        assert ask(cluster, "SELECT lower('ÄÖ')") == "äö"
        assert ask(cluster, "SHOW work_mem") == "5MB"
        leave_a_mark(cluster)
        first = server_pid(cluster)
        cluster.start()
        assert server_pid(cluster) == first

        cluster.stop()
        assert not cluster.running
        cluster.stop()
        cluster.start()
        assert server_pid(cluster) != first
        assert has_the_mark(cluster)
    finally:
        remove(cluster)


def test_only_its_account_and_root_can_connect(cluster: Cluster) -> None:
    cluster.settings["listen_addresses"] = "localhost"
    cluster.start()
    assert ask(cluster, "SHOW listen_addresses") == ""
    assert stat.S_IMODE(socket_folder(cluster).stat().st_mode) == 0o700
    assert Path(f"/proc/{server_pid(cluster)}").stat().st_uid != 0
    rules = ask(cluster, "SELECT type, auth_method FROM pg_hba_file_rules").splitlines()
    assert set(rules) == {"local|trust", "host|reject"}


@pytest.mark.parametrize("version", [18, 16, 15])
def test_the_settings_for_growth_fit_each_build(tmp_path: Path, version: int) -> None:
    want_postgresql(version)
    binaries = find_binaries(version)
    cluster = Cluster(tmp_path / "c", binaries, settings=growing_settings(binaries))
    try:
        cluster.start()
        assert ask(cluster, "SHOW max_wal_size") == "8GB"
        assert ask(cluster, "SHOW checkpoint_timeout") == "15min"
        known = "SELECT enumvals FROM pg_settings WHERE name = 'wal_compression'"
        compressed = "lz4" if "lz4" in ask(cluster, known) else "off"
        assert ask(cluster, "SHOW wal_compression") == compressed
    finally:
        remove(cluster)


@pytest.mark.usefixtures("template")
def test_an_ordinary_user_runs_a_cluster(users_folder: Path, binaries: Path) -> None:
    own = Cluster(users_folder / "own", binaries, settings=SETTINGS)

    def start_and_stop() -> None:
        own.start()
        try:
            leave_a_mark(own)
            assert Path(f"/proc/{server_pid(own)}").stat().st_uid == os.geteuid()
        finally:
            own.stop()
        assert not own.running

    as_ordinary_user(start_and_stop)


@needs_root
def test_root_goes_on_as_the_account_that_owns_the_data(
    template: Path, users_folder: Path, binaries: Path
) -> None:
    folder = shutil.copytree(template, users_folder / "own")
    own = Cluster(folder, binaries, settings=SETTINGS)
    user = users_folder.stat()
    for path in (own.directory, *own.directory.rglob("*")):
        os.chown(path, user.st_uid, user.st_gid)
    as_ordinary_user(own.start)
    try:
        begun = server_pid(own)
        own.start()
        assert server_pid(own) == begun
        own.stop()
        own.start()
        assert Path(f"/proc/{server_pid(own)}").stat().st_uid == user.st_uid
    finally:
        own.stop()
    as_ordinary_user(own.start)
    as_ordinary_user(own.stop)

    os.chown(own.directory / "pg", 0, 0)

    def start_what_is_not_mine() -> None:
        with pytest.raises(EmbeddedError, match="belongs to the account root"):
            own.start()

    as_ordinary_user(start_what_is_not_mine)


@needs_root
def test_root_runs_data_that_root_copied_here(cluster: Cluster) -> None:
    data = cluster.directory / "pg"
    assert data.owner() == "root"
    cluster.start()
    assert data.owner() != "root"
    assert has_the_mark(cluster)


@needs_root
def test_root_opens_folders_for_passing_through_and_no_further(
    tmp_path: Path, binaries: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outer = tmp_path / "outer"
    package = binaries.parents[1]
    installed = outer / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, installed, ignore=shutil.ignore_patterns("include", "*.a"))
    shutil.copytree(f"{package}.libs", outer / f"{package.name}.libs")
    for path in (outer, *outer.rglob("*")):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    cluster = Cluster(outer / "data", installed / "bin", settings=SETTINGS)
    caplog.set_level("INFO", logger="server.embedded")
    try:
        cluster.start()
        assert stat.S_IMODE(outer.stat().st_mode) == 0o701
        assert f"chmod o+x {outer}:" in caplog.text
        assert f"in {installed} and " in caplog.text
        ask(cluster, "SELECT count(*) FROM pg_timezone_names")  # this reads the installed share/
        caplog.clear()
        cluster.stop()
        cluster.start()
        assert "chmod" not in caplog.text
        outer.chmod(0o700)  # somebody closes the folder again while the server runs
        cluster.start()
        cluster.stop()
        assert not cluster.running
    finally:
        remove(cluster)


def test_a_server_outlives_the_process_that_started_it_and_is_adopted(
    cluster: Cluster, start_elsewhere: Starting
) -> None:
    starter = start_elsewhere(cluster)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "started\n"
    begun = server_pid(cluster)
    os.killpg(starter.pid, signal.SIGKILL)  # as if its whole terminal were closed
    starter.wait()

    cluster.start()
    assert server_pid(cluster) == begun
    assert has_the_mark(cluster)
    cluster.stop()
    assert not alive(begun)


def test_an_interrupted_start_leaves_a_server_that_stop_ends(
    cluster: Cluster, start_elsewhere: Starting
) -> None:
    starter = start_elsewhere(cluster)
    pid_file = cluster.directory / "pg" / "postmaster.pid"
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
    server, programs = server_pid(cluster), children(starter.pid)
    os.kill(server, signal.SIGSTOP)  # a slow start
    os.killpg(starter.pid, signal.SIGINT)  # Ctrl-C
    with contextlib.suppress(subprocess.TimeoutExpired):
        starter.wait(0.5)
    left_alone = starter.poll() is not None and any(alive(pid) for pid in programs)
    os.kill(server, signal.SIGCONT)
    starter.wait()
    assert not left_alone
    assert starter.returncode == -signal.SIGINT
    assert has_the_mark(cluster)
    cluster.stop()
    assert not cluster.running


@pytest.mark.parametrize("initdb_too", [False, True])
def test_an_interrupted_initdb_leaves_no_ruin(
    fresh: Cluster, start_elsewhere: Starting, initdb_too: bool
) -> None:
    starter = start_elsewhere(fresh)
    deadline = time.monotonic() + 20
    while not list(fresh.directory.glob(".initdb-*/PG_VERSION")):
        assert time.monotonic() < deadline
    [initdb] = children(starter.pid)
    starter.kill()
    if initdb_too:
        os.killpg(initdb, signal.SIGKILL)
    starter.wait()
    assert not (fresh.directory / "pg").exists()

    fresh.start()
    assert ask(fresh, "SELECT 1") == "1"
    assert not list(fresh.directory.glob(".initdb-*"))


def test_committed_data_survives_a_killed_server(cluster: Cluster) -> None:
    cluster.start()
    ask(cluster, "INSERT INTO mark VALUES ('first')")
    os.kill(server_pid(cluster), signal.SIGKILL)
    cluster.start()
    ask(cluster, "INSERT INTO mark VALUES ('second')")
    cluster.kill()
    assert not cluster.running
    cluster.start()
    assert ask(cluster, "SELECT state FROM mark").split() == ["kept", "first", "second"]
    assert "automatic recovery in progress" in cluster.log.read_text()


def test_a_start_waits_for_the_backends_of_a_killed_server(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start()
    # A busy backend does not notice that its postmaster is gone.
    busy = """DO $$ DECLARE v_end timestamptz := clock_timestamp() + '1 s'; BEGIN
        RAISE NOTICE '%', pg_backend_pid();
        WHILE clock_timestamp() < v_end LOOP END LOOP; END $$"""
    session = subprocess.Popen(
        [cluster.binaries / "psql", "-X", "-c", busy, cluster.dsn()],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert session.stderr is not None
    backend = int(session.stderr.readline().split()[-1])
    os.kill(server_pid(cluster), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_ORPHAN_SECONDS", 0.2)
        with pytest.raises(EmbeddedError, match=rf"processes .*\b{backend}\b"):
            cluster.start()
    assert alive(backend)
    cluster.start()
    assert not alive(backend)
    assert has_the_mark(cluster)
    session.communicate()


def test_a_stale_pid_of_another_program_is_seen_through(cluster: Cluster) -> None:
    cluster.start()
    pid_file = cluster.directory / "pg" / "postmaster.pid"
    socket_lock = socket_folder(cluster) / ".s.PGSQL.5432.lock"
    killed = server_pid(cluster)
    os.kill(killed, signal.SIGKILL)
    # It works in the data folder under the same account, and PostgreSQL checks no more than that.
    owner = pid_file.stat()
    other = subprocess.Popen(
        ["sleep", "600"],
        cwd=pid_file.parent,
        user=owner.st_uid if ROOT else None,
        group=owner.st_gid if ROOT else None,
    )
    try:
        for lock in (pid_file, socket_lock):
            lock.write_text(lock.read_text().replace(str(killed), str(other.pid), 1))
        assert not cluster.running
        cluster.stop()
        cluster.kill()
        assert other.poll() is None

        cluster.start()
        assert has_the_mark(cluster)
        assert server_pid(cluster) != other.pid
        cluster.stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_path_unfit_for_a_socket_works_too(tmp_path: Path, binaries: Path) -> None:
    for name in ("long" * 30, "a,b"):  # a comma would separate two hosts
        with pytest.raises(EmbeddedError, match="not running"):
            Cluster(tmp_path / name, binaries).dsn()
    cluster = Cluster(tmp_path / ("long," * 30), binaries, settings=SETTINGS)
    try:
        cluster.start()
        leave_a_mark(cluster)
        folder = socket_folder(cluster)
        assert cluster.directory not in folder.parents
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

        os.kill(server_pid(cluster), signal.SIGKILL)
        cluster.start()
        assert socket_folder(cluster) == folder

        begun = server_pid(cluster)
        shutil.rmtree(folder)  # as a cleaner of /tmp may do
        cluster.start()
        assert server_pid(cluster) != begun
        assert has_the_mark(cluster)
        folder = socket_folder(cluster)
        cluster.stop()
        assert not folder.exists()
    finally:
        remove(cluster)


def test_any_path_can_be_connected_to(
    tmp_path: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")  # as in the shell of somebody who works with other servers
    folder = tmp_path / 'it\'s 100% "odd" +$HOME ü'
    cluster = Cluster(folder, binaries, settings=SETTINGS)

    async def connect() -> object:
        connection = await asyncpg.connect(cluster.dsn())
        try:
            return await connection.fetchval("SELECT 1")
        finally:
            await connection.close()

    try:
        cluster.start()
        assert ask(cluster, "SELECT 1") == "1"
        assert asyncio.run(connect()) == 1
    finally:
        remove(cluster)


def test_several_who_start_at_once_get_one_server(
    fresh: Cluster, start_elsewhere: Starting
) -> None:
    for starter in [start_elsewhere(fresh) for _ in range(3)]:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
    assert fresh.log.read_text().count("ready to accept connections") == 1


def test_a_folder_of_another_version_is_refused(fresh: Cluster, binaries: Path) -> None:
    older = Cluster(fresh.directory, find_binaries(16), settings=SETTINGS)
    older.start()
    older.stop()
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 16.* PostgreSQL 18: .*pg_dumpall"):
        fresh.start()
    older.start()


def test_a_folder_of_something_else_is_refused(fresh: Cluster) -> None:
    thesis = fresh.directory / "pg" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("ten years of work")
    with pytest.raises(EmbeddedError, match="move it away"):
        fresh.start()
    assert thesis.read_text() == "ten years of work"


def test_a_failed_start_shows_the_end_of_the_log(cluster: Cluster) -> None:
    cluster.settings["shared_buffers"] = "plenty"
    with pytest.raises(EmbeddedError, match='"shared_buffers": "plenty"') as failure:
        cluster.start()
    assert str(cluster.log) in str(failure.value)
    del cluster.settings["shared_buffers"]
    cluster.start()


def test_a_missing_version_is_named_with_what_to_install() -> None:
    with pytest.raises(EmbeddedError, match="Debian's package postgresql-9"):
        find_binaries(9)
