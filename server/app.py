"""The aiohttp application: its resources, its middleware and its routes."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp_jinja2
import jinja2
from aiohttp import web

from server.admin_pages.page import add_filters
from server.agent.charges import CHARGE
from server.agent.checks import CHECK
from server.agent.guard import GUARD, Guard
from server.agent.holds import CAPTURE_FIELDS, HOLD
from server.config import ServeConfig
from server.gateway import CAPTURE_ITEM, CHARGE_ITEM, CHECK_ITEM, HOLD_ITEM, Gateway
from server.http.app_keys import CONFIG, GATEWAY, STOPPING
from server.http.middleware import around_request
from server.lazy_import import load_modules
from server.observe import certificate, metrics, telemetry
from server.outbox.deliveries import Deliveries
from server.outbox.sender import SENDER, Sender
from server.payments.payments import PAYMENTS, Payments
from server.payments.registry import all_providers
from server.payments.top_ups import TopUps
from server.resources import resource_folder
from server.routes import add_routes
from server.staff.identity_provider import IDENTITY_PROVIDER, IdentityProvider
from server.staff.limiter import LIMITER, Limiter
from server.staff.sessions import COOKIES, Cookies

_OBJECTS_BETWEEN_COLLECTIONS = 20_000

# The fields of what agents' calls send, by the names of the composite types.
ITEM_FIELDS = {
    CHECK_ITEM.name: CHECK.fields,
    CHARGE_ITEM.name: CHARGE.fields,
    HOLD_ITEM.name: HOLD.fields,
    CAPTURE_ITEM.name: CAPTURE_FIELDS,
}


def build_app(config: ServeConfig) -> web.Application:
    """Builds the one flat application. The database need not be there: a worker that is restarted
    while the database is away answers 503 until it is back."""
    telemetry.start(os.environ)
    app = web.Application(middlewares=[around_request], client_max_size=config.max_body_bytes)
    app[CONFIG] = config
    app[STOPPING] = asyncio.Event()
    app.on_startup.append(_tune_garbage_collector)
    app.on_shutdown.append(_announce_stop)
    # These two come first and therefore end last, so that the traces and counts of the other
    # resources' end are still sent.
    app.cleanup_ctx.append(_telemetry)
    app.cleanup_ctx.append(_metrics)
    app.cleanup_ctx.append(_gateway)
    app.cleanup_ctx.append(_outbox)
    app.cleanup_ctx.append(_guard)
    app.cleanup_ctx.append(_payments)
    if config.encryption_keys:
        app.cleanup_ctx.append(_top_ups)
    app.cleanup_ctx.append(_lazy_modules)
    if config.tls_certificate_file is not None:
        app.cleanup_ctx.append(_certificate)
    app[LIMITER] = Limiter()
    if config.staff is not None:
        app[COOKIES] = Cookies(config.staff)
        app[IDENTITY_PROVIDER] = IdentityProvider(config.staff)
    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(resource_folder("templates")),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    add_filters(environment)
    add_routes(app)
    return app


async def _tune_garbage_collector(app: web.Application) -> None:
    """Modules that are loaded by now stay for good, so the garbage collector need not walk them
    again and again; each walk delayed requests by up to 40 ms. Requests seldom leave reference
    cycles behind, and a collection after every 700 objects was a twentieth of the cost of a
    request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


async def _announce_stop(app: web.Application) -> None:
    app[STOPPING].set()


async def _telemetry(app: web.Application) -> AsyncIterator[None]:
    yield
    await telemetry.stop()


async def _metrics(app: web.Application) -> AsyncIterator[None]:
    metrics.start()
    flushing = asyncio.create_task(metrics.keep_flushing())
    yield
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)


async def _gateway(app: web.Application) -> AsyncIterator[None]:
    gateway = app[GATEWAY] = Gateway(app[CONFIG], ITEM_FIELDS)
    gateway.start_background_work()
    yield
    await gateway.close()


async def _outbox(app: web.Application) -> AsyncIterator[None]:
    sender = app[SENDER] = Sender(app[CONFIG])
    deliveries = Deliveries(app[GATEWAY], sender)
    delivering = asyncio.create_task(deliveries.run())
    yield
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)
    await deliveries.finish()
    await sender.close()


async def _guard(app: web.Application) -> AsyncIterator[None]:
    guard = app[GUARD] = Guard(app[GATEWAY])
    yield
    guard.close()


async def _payments(app: web.Application) -> AsyncIterator[None]:
    payments = app[PAYMENTS] = Payments(app[CONFIG])
    yield
    await payments.close()


async def _top_ups(app: web.Application) -> AsyncIterator[None]:
    work = asyncio.create_task(TopUps(app[GATEWAY], app[PAYMENTS]).run())
    yield
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def _lazy_modules(app: web.Application) -> AsyncIterator[None]:
    config = app[CONFIG]
    names = []
    if config.encryption_keys:
        names += [name for provider in all_providers() for name in provider.slow_modules]
    if config.staff is not None:
        names.append("jwt")
    if config.staff is not None and config.staff.client_id is not None:
        names += ["authlib.integrations.httpx_client", "authlib.oidc.core"]
    loading = asyncio.create_task(load_modules(*names))
    yield
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)


async def _certificate(app: web.Application) -> AsyncIterator[None]:
    path = app[CONFIG].tls_certificate_file
    assert path is not None
    watch = asyncio.create_task(certificate.watch(Path(path)))
    yield
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
