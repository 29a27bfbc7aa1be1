"""Ends everything that a run of the tests left behind, however the run ended.

    python -m tests.janitor FOLDER

It waits for the end of its standard input, which comes when the process that started it is gone.
Then it ends every process whose environment names the run's folder or whose working folder is below
it, reports these processes, and removes the folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.run import FOLDER

_PATIENCE_SECONDS = 5
_ATTEMPTS = 5


def main(folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    left = processes(folder)
    if left:
        print(f"ended after the tests: {', '.join(map(_name, left))}", file=sys.stderr)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            # On SIGTERM, PostgreSQL would wait for its clients.
            process.send_signal(signal.SIGQUIT if process.name() == "postgres" else signal.SIGTERM)
    psutil.wait_procs(left, _PATIENCE_SECONDS)
    for _ in range(_ATTEMPTS):
        left = processes(folder)  # including processes that were started meanwhile
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, _PATIENCE_SECONDS)
    _unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


def processes(folder: str) -> list[psutil.Process]:
    """The processes of the run with this folder."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _belongs(process, folder)
    ]


def _belongs(process: psutil.Process, folder: str) -> bool:
    with contextlib.suppress(psutil.Error):
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(FOLDER) == folder:
            return True
    with contextlib.suppress(psutil.Error):
        # A program may have cleared its environment, and PostgreSQL shows none.
        return Path(process.cwd()).is_relative_to(folder)
    return False


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({' '.join(process.cmdline())[:80]})"
    return str(process.pid)


def _unmount_below(folder: str) -> None:
    """Unmounts small disks that a test may have mounted in its folder."""
    for mount in [part.mountpoint for part in psutil.disk_partitions(all=True)]:
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=False)


if __name__ == "__main__":
    main(sys.argv[1])
