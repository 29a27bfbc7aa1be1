"""`ciris-billing payments find|refund`: finding a payment, and giving its money back."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from server.cli.account_acts import ACCOUNT_HELP
from server.cli.database import call_function
from server.cli.output import CommandFailed, print_result, print_rows, waiting
from server.cli.parser import idempotency_key
from server.cli.providers import stored_settings
from server.config import load_provider_config
from server.payments.provider import (
    NotConfigured,
    PaymentProviderError,
    ProviderApi,
    RequestRefused,
)
from server.payments.refunds import carry_out
from server.payments.registry import provider_of

_PAYMENT = "SELECT * FROM billing.list_purchases(p_payment_id => %(payment)s, p_limit => 1)"


def add_actions(actions: Any) -> None:
    """Adds the sub-commands."""
    find = actions.add_parser(
        "find",
        help="find a payment by its id, or an account's payments (exit 1: none)",
        description="Finds the payment with this id, or all purchases of an account, newest first.",
    )
    find.add_argument("what", metavar="PAYMENT|ACCOUNT", help=f"a payment id; {ACCOUNT_HELP}")
    find.add_argument("--limit", type=int, default=20, metavar="N", help="1 to 500 (20)")
    find.add_argument("--json", action="store_true", help="print JSON")
    find.set_defaults(run=_find)

    refund = actions.add_parser(
        "refund",
        help="give a payment's money back, by the payment provider",
        description="The credits are taken back when the provider reports the refund. Where the"
        " outcome is not known, the same call with the same --key goes on with it: the money goes"
        " back once.",
    )
    refund.add_argument("payment_id")
    refund.add_argument("--reason", required=True, help="why, for the audit log")
    refund.add_argument("--amount", metavar="MONEY", help="as 7.99 (all that is left)")
    refund.add_argument(
        "--key",
        type=idempotency_key,
        help="an idempotency key: the same call again refunds nothing",
    )
    refund.add_argument("--dry-run", action="store_true", help="say what would be refunded")
    refund.add_argument("--json", action="store_true", help="print JSON")
    refund.set_defaults(run=_refund)


def _find(options: argparse.Namespace) -> int:
    rows = call_function(_PAYMENT, payment=options.what)
    if not rows:
        rows = _purchases_of(options.what, options.limit)
    headings = {
        "payment_id": "PAYMENT",
        "status": "STATUS",
        "price_text": "PRICE",
        "uses": "CREDITS",
        "returned_text": "RETURNED",
        "left_text": "LEFT",
        "created_at": "OFFERED",
        "account_id": "ACCOUNT",
    }
    print_rows(rows, headings, "No payment matches.", as_json=options.json)
    return 0 if rows else 1


def _purchases_of(account: str, limit: int) -> list[dict[str, Any]]:
    try:
        return call_function(
            "SELECT * FROM billing.list_purchases("
            "p_account_id => billing.find_account(%(account)s), p_limit => %(limit)s)",
            account=account,
            limit=limit,
        )
    except CommandFailed as failure:
        if failure.slug == "account_not_found":
            return []
        raise


def _refund(options: argparse.Namespace) -> int:
    purchases = call_function(_PAYMENT, payment=options.payment_id)
    if not purchases:
        raise CommandFailed(f"there is no payment {options.payment_id}")
    purchase = purchases[0]
    provider = provider_of(purchase["provider"])
    # Missing keys or settings are reported here, before the refund is recorded: a recorded refund
    # waits for the provider's answer.
    config = None if options.dry_run else load_provider_config(os.environ, provider.kind)
    settings = stored_settings(provider, config) if config else None
    options.key = options.key or f"refund-{secrets.token_hex(8)}"
    amount = None
    if options.amount:
        [read] = call_function(
            "SELECT billing.read_money(p_amount_text => %(text)s, p_currency => %(currency)s)"
            " AS minor",
            text=options.amount,
            currency=purchase["currency"],
        )
        amount = read["minor"]
    [begun] = call_function(
        "SELECT * FROM billing.begin_refund(p_payment_id => %(payment)s,"
        " p_provider => %(provider)s, p_reason => %(reason)s,"
        " p_amount_minor => %(amount)s, p_idempotency_key => %(key)s, p_dry_run => %(dry)s)",
        payment=purchase["payment_id"],
        provider=purchase["provider"],
        reason=options.reason,
        amount=amount,
        key=options.key,
        dry=options.dry_run,
    )
    name = provider.name
    if config is None or settings is None:
        words = (
            f"Nothing was changed. {name} would refund {begun['amount_text']};"
            f" {begun['credits_due']:,} credits would be taken back, and {begun['credits_there']:,}"
            " are there."
        )
        print_result(begun, words, as_json=options.json)
        return 0
    connecting = partial(provider.connect, settings, config.connection)
    begun["return_id"] = asyncio.run(_carried_out(begun, connecting, name, options.key))
    print_result(
        begun,
        f"{name} refunds {begun['amount_text']} ({begun['return_id']}). The credits are taken back"
        " when it reports the refund, usually within a minute.",
        as_json=options.json,
    )
    return 0


async def _carried_out(
    begun: Mapping[str, Any], connecting: Callable[[], Awaitable[ProviderApi]], name: str, key: str
) -> str:
    """Asks the provider, and returns the refund's id there."""
    opened: list[ProviderApi] = []

    async def connect() -> ProviderApi:
        opened.append(await connecting())
        return opened[0]

    async def finish(**arguments: Any) -> None:
        call_function(
            "SELECT * FROM billing.finish_refund(p_refund_id => %(refund_id)s,"
            " p_return_id => %(return_id)s, p_failure => %(failure)s)",
            **arguments,
        )

    try:
        with waiting(f"waiting for {name}"):
            return await carry_out(begun, connect, finish)
    except RequestRefused as error:
        raise CommandFailed(f"{name} refunded nothing: {error}") from None
    except (PaymentProviderError, NotConfigured) as error:
        raise CommandFailed(
            f"it is not known whether {name} made the refund: {error}; the same command with"
            f" --key {key} goes on with it, and the money goes back once"
        ) from None
    finally:
        for api in opened:
            await api.close()
