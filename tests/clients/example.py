"""The client package's aiohttp example, running."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.support import Process, Service, wait_for


@contextmanager
def running_example(
    service: Service, tree: Path, port: int, **environment: str
) -> Iterator[Process]:
    """The example at this port, until the end of the block; then it must end by itself."""
    program = str(tree / "clients/python/examples/aiohttp_agent.py")
    example = Process(
        [sys.executable, program, "--port", str(port)],
        {
            "PYTHONPATH": str(tree / "clients/python"),
            "CIRIS_BILLING_URL": service.base_url,
            "CIRIS_BILLING_API_KEY": service.key.secret,
            **environment,
        },
    ).start()
    try:
        wait_for(lambda: _answers(port), "the example to serve")
        yield example
        assert example.stop() == 0, example.output
    finally:
        example.stop()


def _answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/").status_code == 404
    except httpx2.TransportError:
        return False
