"""An agent behind aiohttp: credits are held for each question, and what the answer cost is taken.
With CIRIS_BILLING_WEBHOOK_SECRET it takes the service's webhooks at /billing, too.

CIRIS_BILLING_URL=... CIRIS_BILLING_API_KEY=... python aiohttp_agent.py --port 8080
curl -s localhost:8080/ask -d '{"user": "ada", "question": "How are you?"}'
"""

import argparse
import os
from collections.abc import AsyncIterator

from aiohttp import web
from ciris_billing_client import (
    AsyncBilling,
    InsufficientCredits,
    User,
    WebhookError,
    verify_webhook,
)

BILLING = web.AppKey("billing", AsyncBilling)
UP_TO = 5  # credits that an answer may cost


async def open_billing(app: web.Application) -> AsyncIterator[None]:
    """One client serves the whole program."""
    async with AsyncBilling() as app[BILLING]:
        yield


async def ask(request: web.Request) -> web.Response:
    """Answers a question if its user can pay for the answer."""
    asked = await request.json()
    user = User("oauth:google", asked["user"])
    billing = request.app[BILLING]
    await billing.check(user)  # a user who is new gets an account with free uses
    try:
        async with billing.use(user, up_to=UP_TO, description="a question") as use:
            # If this fails, or the client hangs up, everything that is held is given back.
            answer, credits_used = await work(asked["question"])
            use.settle(credits_used)
    except InsufficientCredits as error:
        return web.json_response(
            {"error": "no credits left", "buy": error.purchase_url}, status=402
        )
    return web.json_response(
        {
            "answer": answer,
            "paid_with": use.hold.paid_with,
            "credits_used": use.hold.captured_minor,
            "credits_left": use.hold.available,
            "free_uses_left": use.hold.free_uses_available,
        }
    )


async def receive(request: web.Request) -> web.Response:
    """Takes what the service tells; here it is only printed."""
    secret = os.environ["CIRIS_BILLING_WEBHOOK_SECRET"]
    try:
        message = verify_webhook(await request.read(), request.headers, secret)
    except WebhookError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    print(message.type, message.data, flush=True)
    return web.Response(status=204)


async def work(question: str) -> tuple[str, int]:
    """The agent's own work, and what it cost: here a credit for each word."""
    words = question.split()
    if not words:
        raise web.HTTPUnprocessableEntity(text="ask something")
    return f"You said {question!r}.", min(len(words), UP_TO)


def main() -> None:
    """Serves on a port of this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    app = web.Application()
    app.cleanup_ctx.append(open_billing)
    app.router.add_post("/ask", ask)
    app.router.add_post("/billing", receive)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port)


if __name__ == "__main__":
    main()
