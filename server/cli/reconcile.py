"""`ciris-billing reconcile PROVIDER`: lists what the provider has and our books lack, and
the other way round."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from server.cli.database import call_function
from server.cli.output import CommandFailed, print_json, print_table
from server.cli.providers import stored_settings
from server.config import ProviderConfig, load_provider_config
from server.payment_kinds import PROVIDER_KINDS
from server.payments.provider import (
    Claim,
    MoneyReturn,
    PaymentMissing,
    PaymentProvider,
    PaymentProviderError,
    ProviderSettings,
)
from server.payments.reconciliation import Difference, Reconciliation, Report
from server.payments.registry import provider_of


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "reconcile",
        help="compare payments with the payment provider's (exit 1: they differ)",
        description="Reads the provider's succeeded payments, refunds and disputes since a date,"
        " and what was credited here, and lists what either side lacks. Differences that --fix has"
        " mended do not count for the exit code. It may be run again at any time: nothing is"
        " credited or taken back twice.",
    )
    parser.add_argument("provider", choices=PROVIDER_KINDS)
    parser.add_argument(
        "--since", type=_date, required=True, metavar="DATE", help="2026-11-01, in UTC"
    )
    parser.add_argument(
        "--fix", action="store_true", help="credit and take back here what is missing here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _date(text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a date like 2026-11-01") from None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _run(options: argparse.Namespace) -> int:
    provider = provider_of(options.provider)
    config = load_provider_config(os.environ, provider.kind)
    settings = stored_settings(provider, config)
    try:
        report = asyncio.run(_reconcile(options, provider, config, settings))
    except PaymentMissing:
        raise CommandFailed(
            f"{provider.name} lists a payment that it does not know by its id"
        ) from None
    except PaymentProviderError as error:
        raise CommandFailed(f"{error}; what was found so far is not shown, try again") from None
    for note in report.notes:
        print(f"ciris-billing: {note}", file=sys.stderr)
    if options.json:
        print_json(
            {
                "since": options.since,
                "payments_compared": report.payments,
                "returns_compared": report.returns,
                "differences": [asdict(found) for found in report.differences],
                "remaining": len(report.remaining),
                "notes": report.notes,
            }
        )
    else:
        _print_report(report, _amounts(report.differences))
    return 1 if report.remaining else 0


async def _reconcile(
    options: argparse.Namespace,
    provider: PaymentProvider,
    config: ProviderConfig,
    settings: ProviderSettings,
) -> Report:
    from tqdm import tqdm

    api = await provider.connect(settings, config.connection)
    bar = tqdm(desc="comparing", unit="", file=sys.stderr, disable=not sys.stderr.isatty())

    def step(reference: str) -> None:
        bar.set_postfix_str(reference, refresh=False)
        bar.update()

    try:
        books = _Database(provider.kind)
        run = Reconciliation(provider, api, books, options.since, fix=options.fix, step=step)
        return await run.run()
    finally:
        bar.close()
        await api.close()


class _Database:
    """Our books of one provider, as a DBA reads them."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def payments(self, payment_ids: Sequence[str]) -> list[dict[str, Any]]:
        return call_function(
            "SELECT * FROM billing.list_payments(p_payment_ids => %(ids)s,"
            " p_provider => %(provider)s)",
            ids=list(payment_ids),
            provider=self._kind,
        )

    def settled_since(self, since: datetime) -> list[dict[str, Any]]:
        return call_function(
            "SELECT * FROM billing.list_payments(p_since => %(since)s, p_provider => %(provider)s)",
            since=since,
            provider=self._kind,
        )

    def settle(
        self, payment_id: str, amount_minor: int, currency: str, claim: Claim
    ) -> dict[str, Any]:
        return call_function(
            "SELECT * FROM billing.settle_purchase(p_payment_id => %(payment_id)s,"
            " p_amount_minor => %(amount)s, p_currency => %(currency)s,"
            " p_account_id => %(account_id)s, p_purchase_id => %(purchase_id)s,"
            " p_oauth_provider => %(oauth_provider)s, p_external_id => %(external_id)s,"
            " p_is_foreign => %(is_foreign)s, p_provider => %(provider)s)",
            payment_id=payment_id,
            amount=amount_minor,
            currency=currency,
            account_id=claim.account_id,
            purchase_id=claim.purchase_id,
            oauth_provider=claim.oauth_provider,
            external_id=claim.external_id,
            is_foreign=claim.is_foreign,
            provider=self._kind,
        )[0]

    def now(self) -> datetime:
        now: datetime = call_function("SELECT clock_timestamp() AS now")[0]["now"]
        return now

    def put_return(
        self, payment_id: str, returned: MoneyReturn, currency: str, read_at: datetime
    ) -> dict[str, Any]:
        return call_function(
            "SELECT * FROM billing.return_payment(p_payment_id => %(payment_id)s,"
            " p_return_id => %(return_id)s, p_kind => %(kind)s, p_amount_minor => %(amount)s,"
            " p_currency => %(currency)s, p_away_minor => %(away)s, p_state => %(state)s,"
            " p_transactions => %(transactions)s, p_read_at => %(read_at)s,"
            " p_provider => %(provider)s)",
            payment_id=payment_id,
            return_id=returned.id,
            kind=returned.kind,
            amount=returned.amount_minor,
            currency=currency,
            away=returned.away_minor,
            state=returned.state,
            transactions=returned.transactions,
            read_at=read_at,
            provider=self._kind,
        )[0]


def _amounts(differences: Sequence[Difference]) -> list[str]:
    """Writes the amount of each difference as people write it."""
    rows = call_function(
        "SELECT billing.describe_money(p_amount_minor => d.amount, p_currency => d.currency)"
        " AS amount FROM unnest(%(amounts)s::bigint[], %(currencies)s::text[])"
        " WITH ORDINALITY AS d (amount, currency, place) ORDER BY d.place",
        amounts=[found.amount_minor for found in differences],
        currencies=[found.currency for found in differences],
    )
    return [row["amount"] for row in rows]


def _print_report(report: Report, amounts: Sequence[str]) -> None:
    rows = [
        {
            **asdict(found),
            "amount": amount,
            "result": "fixed" if found.fixed else found.outcome or "to do",
        }
        for found, amount in zip(report.differences, amounts, strict=True)
    ]
    headings = {
        "kind": "DIFFERENCE",
        "payment_id": "PAYMENT",
        "return_id": "RETURN",
        "amount": "AMOUNT",
        "created_at": "WHEN",
        "account_id": "ACCOUNT",
        "result": "RESULT",
    }
    print_table(rows, headings, "Both sides agree.")
    print(
        f"{report.payments} payments and {report.returns} returns compared,"
        f" {len(report.differences)} differences, {len(report.remaining)} remaining."
    )
