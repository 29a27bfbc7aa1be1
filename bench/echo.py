"""`python -m bench.echo FD`: one process that sends back what it received, on an inherited
listening socket. It shows what aiohttp can do on this machine when there is no work to do."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import uvloop
from aiohttp import web


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/json")


@contextlib.contextmanager
def running_echo(workers: int) -> Iterator[tuple[str, list[int]]]:
    """Its URL and process ids, until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)  # as the server's; early connections wait here
        command = [sys.executable, "-m", "bench.echo", str(listener.fileno())]
        processes = [
            subprocess.Popen(command, pass_fds=[listener.fileno()], start_new_session=True)
            for _ in range(workers)
        ]
        try:
            url = "http://{}:{}".format(*listener.getsockname())
            yield url, [process.pid for process in processes]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(15)


def main() -> None:
    """Serves until SIGTERM."""
    app = web.Application()
    app.router.add_post("/", _echo)
    listener = socket.socket(fileno=int(sys.argv[1]))
    web.run_app(
        app,
        sock=listener,
        loop=uvloop.new_event_loop(),
        access_log=None,
        print=None,
        shutdown_timeout=1,
    )


if __name__ == "__main__":
    main()
