"""The Stripe of `ciris-billing dev --fake-stripe`: localstripe, in a process of its own on this
machine. It needs the package localstripe (the extra `fake-stripe`). POST /_config/pay/{payment_id}
does what a customer does on Stripe's page."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from server.cli.output import CommandFailed

SETTINGS = {
    "api_key": "sk_test_fakeStripeOfDev",
    "publishable_key": "pk_test_fakeStripeOfDev",
    "webhook_secret": "whsec_fakeStripeOfDev",
}
_EVENTS = ["payment_intent.succeeded", "payment_intent.payment_failed", "refund.updated"]
_UNKNOWN = ("automatic_payment_methods", "setup_future_usage")
_CARD = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2050, "cvc": "123"}


@contextlib.contextmanager
def running_fake_stripe(service_url: str) -> Iterator[str]:
    """Runs a fake Stripe that reports payments to the service at `service_url`, and yields its
    address. Raises CommandFailed where localstripe is not installed."""
    if find_spec("localstripe") is None:
        raise CommandFailed(
            "--fake-stripe needs the package localstripe: pip install 'ciris-billing[fake-stripe]'"
        )
    webhook = f"{service_url}/v1/billing/webhooks/stripe"
    with subprocess.Popen(
        [sys.executable, "-m", "server.cli.fake_stripe", webhook],
        # the child ends when this pipe closes, so it never outlives its parent
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise CommandFailed("the fake Stripe did not start")
            yield address
        finally:
            process.terminate()


def _without(method: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """The method, called without the arguments of these names."""

    def called(*arguments: Any, **named: Any) -> Any:
        return method(*arguments, **{n: value for n, value in named.items() if n not in names})

    return called


def _reported(api: Any, make: Callable[..., None]) -> Callable[..., None]:
    """Makes a refund and reports it a second later, which localstripe does not do itself."""

    def made(refund: Any, **named: Any) -> None:
        make(refund, **named)
        api.schedule_webhook(api.Event("refund.updated", refund))

    return made


async def _serve(webhook: str) -> None:
    from aiohttp import web
    from localstripe import resources

    api: Any = resources
    # localstripe refuses what it does not know. It charges a card whoever is present.
    api.PaymentIntent.__init__ = _without(api.PaymentIntent.__init__, *_UNKNOWN)
    api.extra_apis[:] = [(*kind, _without(call, "off_session")) for *kind, call in api.extra_apis]
    api.Refund.__init__ = _reported(api, api.Refund.__init__)
    from localstripe import server  # which takes what is in extra_apis by now

    async def pay(request: web.Request) -> web.Response:
        """Pays as a customer would, with a card that works; the webhook follows after a second."""
        payment_id = request.match_info["payment_id"]
        method = api.PaymentMethod._api_create(type="card", card=dict(_CARD))
        api.PaymentIntent._api_update(payment_id, payment_method=method.id)
        intent = api.PaymentIntent._api_confirm(payment_id)
        return web.json_response({"payment_id": payment_id, "status": intent.status})

    # localstripe uses one file for everybody who runs it
    resources.Store.dump_to_disk = lambda self: None
    server.register_webhook("dev", webhook, SETTINGS["webhook_secret"], _EVENTS)
    # localstripe asks for no key below /_config/.
    server.app.router.add_post("/_config/pay/{payment_id}", pay)
    runner = web.AppRunner(server.app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    # Ctrl-C reaches this process too, and the server works on until its requests are answered.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(sys.argv[1]))
