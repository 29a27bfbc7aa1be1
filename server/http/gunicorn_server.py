"""gunicorn as the process manager: it forks aiohttp workers, replaces dead ones and forwards
signals. Its logs go where our logs go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from server.config import ServeConfig
from server.http.aiohttp_server import Runner
from server.observe import metrics

_GRACE_SECONDS = 30
_KEEPALIVE_SECONDS = 75
# A browser sends all cookies of our domain, also those of other services.
_LONGEST_HEADER = 64 << 10


class _JsonLogger(Logger):  # type: ignore[misc]
    """Writes gunicorn's messages as our own JSON lines, without gunicorn's handlers."""

    def setup(self, cfg: Any) -> None:
        """Leaves formatting to the root logger."""
        self.loglevel = logging.INFO
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True


class Worker(GunicornUVLoopWebWorker):
    """aiohttp's worker, which begins to stop when it is told to. aiohttp's own notices SIGTERM only
    at the end of its pause, up to a second later."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Ends the pause too."""
        super().handle_exit(sig, frame)
        self._notify_waiter_done()


class GunicornServer(BaseApplication):  # type: ignore[misc]
    """`run()` serves until a signal and then raises SystemExit."""

    def __init__(
        self,
        config: ServeConfig,
        build_app: Callable[[ServeConfig], web.Application],
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._config = config
        self._build_app = build_app
        self._on_ready = on_ready
        super().__init__()

    def load_config(self) -> None:
        """Takes gunicorn's settings from ours; gunicorn's own files and environment are not
        read."""
        settings = {
            "bind": [f"{self._config.host}:{self._config.port}"],
            "workers": self._config.workers,
            "worker_class": Worker,
            "preload_app": True,
            "backlog": 2048,
            "graceful_timeout": _GRACE_SECONDS,
            "timeout": 60,
            "accesslog": None,
            "logger_class": _JsonLogger,
            "proc_name": "ciris-billing",
            "child_exit": _child_exit,
            "when_ready": self._when_ready,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)
        # The control socket would be a second way to control the server, which we do not offer.
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)

    def load(self) -> Callable[[], Any]:
        """Returns a factory: each worker makes its server in its own event loop, after the fork."""

        async def factory() -> web.AppRunner:
            return Runner(
                self._build_app(self._config),
                access_log=None,  # our access log has the request id and no address
                auto_decompress=False,
                keepalive_timeout=_KEEPALIVE_SECONDS,
                max_field_size=_LONGEST_HEADER,
                shutdown_timeout=_GRACE_SECONDS * 0.95,
            )

        return factory

    def _when_ready(self, arbiter: Any) -> None:
        if self._on_ready is not None:
            self._on_ready()


def _child_exit(arbiter: Any, worker: Any) -> None:
    metrics.process_ended(worker.pid)
