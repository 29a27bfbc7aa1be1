"""Stripe's payments, refunds and disputes against what is known here: what either side lacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from server.payments.stripe.api import NotPermitted, PaymentMissing, StripeApi
from server.payments.stripe.events import (
    MoneyReturn,
    dispute_return,
    is_ours,
    payment_id_of,
    purchase_metadata,
    refund_return,
)

_PAGE = 100
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that one side has and the other lacks. `kind`: not_credited, amount_differs,
    not_taken_back, not_given_back, unknown_to_stripe. `outcome` is what fixing it came to, in the
    words of the billing function."""

    kind: str
    payment_id: str
    amount_minor: int
    currency: str
    created_at: datetime | None = None
    return_id: str | None = None
    account_id: str | None = None
    fixed: bool = False
    outcome: str | None = None


class Books(Protocol):
    """Our side: the billing functions that reconciliation needs."""

    def payments(self, payment_ids: Sequence[str]) -> Sequence[Row]:
        """Rows of billing.list_payments for these payments."""

    def settled_since(self, since: datetime) -> Sequence[Row]:
        """Rows of billing.list_payments for what was credited since then."""

    def settle(self, payment_id: str, amount_minor: int, currency: str, metadata: Any) -> Row:
        """billing.settle_purchase: a row with its outcome."""

    def now(self) -> datetime:
        """The time by the database's clock."""

    def put_return(
        self, payment_id: str, returned: MoneyReturn, currency: str, read_at: datetime
    ) -> Row:
        """billing.return_payment: a row with its outcome and what is known as away then."""


@dataclass(slots=True)
class Report:
    """What a run found. `notes` says what could not be compared."""

    payments: int
    returns: int
    differences: list[Difference]
    notes: list[str]

    @property
    def remaining(self) -> list[Difference]:
        """What still differs."""
        return [found for found in self.differences if not found.fixed]


class Reconciliation:
    """One comparison, of everything since `since`; with `fix`, what is missing here is added by
    the functions that the webhook uses. `step` is told of each thing looked at."""

    def __init__(
        self,
        stripe: StripeApi,
        books: Books,
        since: datetime,
        *,
        fix: bool,
        step: Callable[[str], None],
    ) -> None:
        self._stripe = stripe
        self._books = books
        self._since = since
        self._start = int(since.timestamp())
        self._fix = fix
        self._step = step
        self._seen: set[str] = set()
        self._read_at = since  # from the start of the run on, when everything was read
        self._report = Report(0, 0, [], [])

    async def run(self) -> Report:
        """Compares. Raises PaymentProviderError when Stripe cannot be asked."""
        self._read_at = self._books.now()
        async for page in _pages(self._stripe.list_charges(self._start)):
            await self._compare_charges(page)
        async for page in _pages(self._stripe.list_refunds(self._start)):
            self._compare_returns([(refund, refund_return(refund)) for refund in page])
        try:
            async for page in _pages(self._stripe.list_disputes(self._start)):
                self._compare_returns([(dispute, dispute_return(dispute)) for dispute in page])
        except (PaymentMissing, NotPermitted) as error:
            self._report.notes.append(
                f"disputes were not compared: {str(error) or 'this Stripe knows none'}"
            )
        await self._compare_own()
        return self._report

    async def _compare_charges(self, page: Sequence[Row]) -> None:
        paid = {
            payment_id: charge
            for charge in page
            if charge.get("status") == "succeeded"
            and charge.get("captured", True)
            and (payment_id := payment_id_of(charge)) is not None
        }
        known = {row["payment_id"]: row for row in self._books.payments(list(paid))}
        for payment_id, charge in paid.items():
            self._step(payment_id)
            self._seen.add(payment_id)
            await self._compare_charge(payment_id, charge, known.get(payment_id))

    async def _compare_charge(self, payment_id: str, charge: Row, row: Row | None) -> None:
        amount = charge.get("amount_captured") or charge["amount"]
        found = Difference(
            "not_credited",
            payment_id,
            amount,
            charge["currency"].upper(),
            _time(charge),
            account_id=str(row["account_id"]) if row else None,
        )
        if row is not None and row["status"] == "settled":
            self._report.payments += 1
            if (row["price_minor"], row["currency"]) != (amount, found.currency):
                self._report.differences.append(replace(found, kind="amount_differs"))
            return
        if row is not None and (row["resolved"] or _is_void(charge, row, found)):
            self._report.payments += 1
            return
        metadata = (await self._stripe.get_intent(payment_id)).metadata
        if row is None and not is_ours(metadata):
            return  # somebody else's payment through the same Stripe account
        self._report.payments += 1
        if self._fix:
            result = self._books.settle(
                payment_id, amount, found.currency, purchase_metadata(metadata)
            )
            found = replace(
                found,
                fixed=result["outcome"] in ("credited", "already_credited"),
                outcome=result["outcome"],
                account_id=str(result["account_id"]) if result["account_id"] else None,
            )
        self._report.differences.append(found)

    def _compare_returns(self, page: Sequence[tuple[Row, MoneyReturn | None]]) -> None:
        ids = {payment_id for subject, _ in page if (payment_id := payment_id_of(subject))}
        known = {row["payment_id"]: row for row in self._books.payments(sorted(ids))}
        for subject, returned in page:
            payment_id = payment_id_of(subject)
            if payment_id is None or returned is None or payment_id not in known:
                continue
            row = known[payment_id]
            if row["resolved"] and row["status"] != "settled":
                continue  # a person has dealt with the payment, and nothing was credited for it
            if returned.moves_nothing and returned.id not in row["return_ids"]:
                continue
            self._step(returned.id)
            self._report.returns += 1
            self._compare_return(subject, returned, row)

    def _compare_return(self, subject: Row, returned: MoneyReturn, row: Row) -> None:
        ours = dict(zip(row["return_ids"], row["return_away_minor"], strict=True))
        missing = returned.away_minor - ours.get(returned.id, 0)
        if missing == 0:
            return
        found = Difference(
            "not_taken_back" if missing > 0 else "not_given_back",
            row["payment_id"],
            abs(missing),
            str(subject["currency"]).upper(),
            _time(subject),
            return_id=returned.id,
            account_id=str(row["account_id"]),
        )
        if self._fix:
            result = self._books.put_return(
                row["payment_id"], returned, found.currency, self._read_at
            )
            done = result["away_minor"] == returned.away_minor
            found = replace(found, fixed=done, outcome=result["outcome"])
        self._report.differences.append(found)

    async def _compare_own(self) -> None:
        """What was credited here, and Stripe did not list: paid before `since`, or never."""
        for row in self._books.settled_since(self._since):
            if row["payment_id"] in self._seen:
                continue
            self._step(row["payment_id"])
            self._report.payments += 1
            try:
                paid = (await self._stripe.get_intent(row["payment_id"])).status == "succeeded"
            except PaymentMissing:
                paid = False
            if not paid:
                self._report.differences.append(
                    Difference(
                        "unknown_to_stripe",
                        row["payment_id"],
                        row["price_minor"],
                        row["currency"],
                        row["settled_at"],
                        account_id=str(row["account_id"]),
                    )
                )


def _is_void(charge: Row, row: Row, paid: Difference) -> bool:
    """Whether a payment that cannot be credited has gone back whole: nobody owes anything."""
    fits = (row["price_minor"], row["currency"]) == (paid.amount_minor, paid.currency)
    return bool(charge.get("refunded")) and not fits


async def _pages(items: AsyncIterator[Row]) -> AsyncIterator[list[Row]]:
    page: list[Row] = []
    async for item in items:
        page.append(item)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page


def _time(subject: Row) -> datetime:
    return datetime.fromtimestamp(subject["created"]).astimezone()
