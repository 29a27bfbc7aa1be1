"""What one run of pytest, with its workers, has to itself: a folder that is removed afterwards, the
prepared data of clusters, ports, and the guarantee that no process outlives the run.

The first process of a run calls begin(). It passes the names on in the environment, where workers
and all programs that tests start find them. tests/janitor.py ends what is left."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

FOLDER = "BILLING_TEST_RUN"

# The tests write much data that need not survive a crash, so it need not go to a disk.
_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 6 * 2**30  # several times the size of a whole run

# Ports below those that the kernel gives to outgoing connections and to programs that ask for any
# port.
_BLOCKS = [range(start, start + 200) for start in range(10_000, 32_600, 200)]


def begin() -> Callable[[], None]:
    """Begins a run in this process. Returns the function that ends it."""
    folder = tempfile.mkdtemp(prefix="ciris-run-", dir=_memory())
    Path(folder).chmod(0o755)  # other accounts, such as PostgreSQL's, pass through it
    for prepared in Path(os.environ.get(FOLDER, folder)).glob("*.done"):
        # This run is itself inside a test: data that the outer run has made need not be made again.
        Path(folder, prepared.stem).symlink_to(prepared.with_suffix(""))
        Path(folder, prepared.name).touch()
    janitor = subprocess.Popen(
        [sys.executable, "-m", "tests.janitor", folder],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must not reach it
    )
    before = {name: os.environ.get(name) for name in (FOLDER, "TMPDIR")}
    os.environ |= {FOLDER: folder, "TMPDIR": folder}
    tempfile.tempdir = None  # tempfile looks it up again

    def end() -> None:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        tempfile.tempdir = None
        janitor.communicate()

    return end


def _memory() -> Path | None:
    """The file system in memory, if it has room and allows running programs."""
    if not _MEMORY.is_dir() or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC:
        return None
    room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    return _MEMORY if room >= _ENOUGH_BYTES and os.access(_MEMORY, os.W_OK) else None


@contextmanager
def made_once(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that the run's processes share, and whether it must be made now: the first process
    makes it while the others wait. Outside a run it is made each time and removed afterwards."""
    run = os.environ.get(FOLDER)
    if run is None:
        with tempfile.TemporaryDirectory(prefix="ciris-test-") as own:
            Path(own).chmod(0o755)
            yield Path(own, name), True
        return
    folder = Path(run, name)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = Path(f"{folder}.done")
        yield folder, not done.exists()
        done.touch()


class _Ports:
    """A block of ports that no other process of tests on this machine uses, taken in turn."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        for block in _BLOCKS:
            # The kernel frees an abstract socket name when its process ends, however that happens.
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0ciris-test-ports-{block.start}")
            except OSError:
                claim.close()
                continue
            self.claim, self.ports, self.next = claim, list(block), 0
            return
        raise AssertionError("all blocks of ports are taken")

    def take(self) -> int:
        for _ in self.ports:
            port = self.ports[self.next]
            self.next = (self.next + 1) % len(self.ports)
            with socket.socket() as listener:
                try:
                    listener.bind(("127.0.0.1", port))
                except OSError:
                    continue  # still in use, or another program's
            return port
        raise AssertionError("no port of this process is free")


_ports: _Ports | None = None


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens. No other test gets it meanwhile."""
    global _ports  # noqa: PLW0603 - one block for each process
    if _ports is None or _ports.owner != os.getpid():
        _ports = _Ports()
    return _ports.take()
