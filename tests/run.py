"""What one run of pytest has to itself, its workers included: folders that are gone afterwards, the
prepared data of clusters, ports, and the promise that no process outlives the run.

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

FOLDER = "BILLING_TEST_RUN"
MEMORY = "BILLING_TEST_MEMORY"

# Where clusters may lie, because the kernel keeps it in memory: they are written to a lot, and
# nobody wants them back after a crash.
_SHARED_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 6 * 2**30  # a run with four workers was seen to take a quarter of it

# Ports below those that the kernel gives to outgoing connections and to whoever asks for any.
_BLOCKS = [range(start, start + 200) for start in range(10_000, 32_600, 200)]


def begin() -> Callable[[], None]:
    """Begin a run in this process; gives what ends it."""
    folder = Path(tempfile.mkdtemp(prefix="ciris-run-"))
    memory = Path(tempfile.mkdtemp(prefix="ciris-run-", dir=_memory() or folder))
    for made in (folder, memory):
        made.chmod(0o755)  # PostgreSQL's account passes through it
    janitor = subprocess.Popen(
        [sys.executable, "-m", "tests.janitor", str(folder), str(memory)],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    before = {name: os.environ.get(name) for name in (FOLDER, MEMORY, "TMPDIR")}
    os.environ |= {FOLDER: str(folder), MEMORY: str(memory), "TMPDIR": str(folder)}
    tempfile.tempdir = None  # it is found anew

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
    try:
        roomy = shutil.disk_usage(_SHARED_MEMORY).free >= _ENOUGH_BYTES
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >= _ENOUGH_BYTES
    except (OSError, ValueError):
        return None
    return _SHARED_MEMORY if roomy and available and os.access(_SHARED_MEMORY, os.W_OK) else None


def memory_folder() -> str | None:
    """The folder for clusters; None outside a run."""
    return os.environ.get(MEMORY)


@contextmanager
def made_once(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that is shared by the run's processes, and whether it has to be made now: by the
    first who comes, while others wait. Outside a run it is made each time, and gone afterwards."""
    run = memory_folder()
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
    """A block of ports that no other process of tests on this machine uses, and a way round it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        for block in _BLOCKS:
            # The kernel forgets an abstract name when its process ends, however it ends.
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
                    continue  # still in use, or somebody else's
            return port
        raise AssertionError("no port of this process is free")


_ports: _Ports | None = None


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens, and which no other test is given meanwhile."""
    global _ports  # noqa: PLW0603 - one block for each process
    if _ports is None or _ports.owner != os.getpid():
        _ports = _Ports()
    return _ports.take()
