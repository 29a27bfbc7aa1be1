"""`ciris-billing serve`: the web server, N worker processes under gunicorn."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from server.cli.output import CommandFailed
from server.cli.port import require_free_port
from server.config import ServeConfig, load_serve_config

_METRICS = "PROMETHEUS_MULTIPROC_DIR"


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "serve",
        help="run the web server",
        description="Serves until SIGTERM or Ctrl-C: then it stops accepting, finishes what is in"
        " flight and exits. Needs DATABASE_URL and a database that `migrate` has been run on.",
    )
    parser.add_argument("--host", help="address to listen on (HOST, default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (PORT, default 8000)")
    parser.add_argument("--workers", type=int, help="worker processes (WORKERS, default 1)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    environment = dict(os.environ)
    for name, value in (
        ("HOST", options.host),
        ("PORT", options.port),
        ("WORKERS", options.workers),
    ):
        if value is not None:
            environment[name] = str(value)
    config = load_serve_config(environment)
    require_free_port(config.host, config.port)
    return run_server(config)


def run_server(config: ServeConfig, *, on_ready: Any = None, scratch: Path | None = None) -> int:
    """Checks the database, then serves until it is told to stop. Returns the exit code. `on_ready`
    is called in the parent process once it listens. The processes share their metrics in a
    temporary folder below `scratch`."""
    directory = tempfile.mkdtemp(prefix="ciris-billing-metrics-", dir=scratch)
    # prometheus_client reads this variable when it is imported; that is why some imports stand
    # below.
    os.environ[_METRICS] = directory
    parent = os.getpid()
    # Searching for garbage while modules are loaded finds none, and took a tenth of the start.
    gc.disable()
    try:
        from server.observe import logs

        logs.configure(config.log_level)
        asyncio.run(_check_database(config))
        from server.app import build_app
        from server.http.gunicorn_server import GunicornServer

        server = GunicornServer(config, build_app, on_ready)
        gc.freeze()  # what is loaded stays for good, and workers share its memory with this process
        gc.enable()
        server.run()
    except SystemExit as stop:
        if os.getpid() != parent:
            raise
        return int(stop.code or 0)
    finally:
        if os.getpid() == parent:
            os.environ.pop(_METRICS, None)
            shutil.rmtree(directory, ignore_errors=True)
    return 0


async def _check_database(config: ServeConfig) -> None:
    """Refuses to start when every answer would be a 500: the database must be reachable and fit
    this release."""
    from server.app import ITEM_FIELDS
    from server.gateway import Gateway, RightsMissing, SchemaMismatch, Unavailable

    gateway = Gateway(
        dataclasses.replace(config, connect_timeout=5.0), ITEM_FIELDS, announce_rights=True
    )
    try:
        await gateway.compare_with_database()
    except SchemaMismatch as error:
        raise CommandFailed(
            "the database does not fit this release, run `ciris-billing migrate` first: "
            + str(error)
        ) from None
    except RightsMissing as error:
        raise CommandFailed(
            f"{error}: run `ciris-billing migrate` first, and make the login a member of it"
        ) from None
    except Unavailable as error:
        raise CommandFailed(f"{error}: is DATABASE_URL right and the database up?") from None
    finally:
        await gateway.close()
