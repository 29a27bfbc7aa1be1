"""Compares a provider's payments, refunds and disputes with what is known here, and lists what
either side lacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

from server.payments.provider import (
    Claim,
    ListedPayment,
    ListedReturn,
    MoneyReturn,
    NotPermitted,
    PaymentMissing,
    PaymentProvider,
    ProviderApi,
)

_PAGE = 100
Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that one side has and the other lacks. `kind`: not_credited, amount_differs,
    not_taken_back, not_given_back, unknown_to_<provider>. `outcome` is the billing function's
    outcome of fixing it."""

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
    """Our books: the billing functions that reconciliation needs."""

    def payments(self, payment_ids: Sequence[str]) -> Sequence[Row]:
        """Rows of billing.list_payments for these payments."""

    def settled_since(self, since: datetime) -> Sequence[Row]:
        """Rows of billing.list_payments for the payments credited since then."""

    def settle(self, payment_id: str, amount_minor: int, currency: str, claim: Claim) -> Row:
        """billing.settle_purchase: a row with its outcome."""

    def now(self) -> datetime:
        """The time by the database's clock."""

    def put_return(
        self, payment_id: str, returned: MoneyReturn, currency: str, read_at: datetime
    ) -> Row:
        """billing.return_payment: a row with its outcome and the amount known to be away
        afterwards."""


@dataclass(slots=True)
class Report:
    """The result of a run. `notes` says what could not be compared."""

    payments: int
    returns: int
    differences: list[Difference]
    notes: list[str]

    @property
    def remaining(self) -> list[Difference]:
        """The differences that remain."""
        return [found for found in self.differences if not found.fixed]


class Reconciliation:
    """One comparison of everything since `since`. With `fix`, what is missing here is added by the
    functions that the webhook uses. `step` is called with each thing compared."""

    def __init__(
        self,
        provider: PaymentProvider,
        api: ProviderApi,
        books: Books,
        since: datetime,
        *,
        fix: bool,
        step: Callable[[str], None],
    ) -> None:
        self._provider = provider
        self._api = api
        self._books = books
        self._since = since
        self._fix = fix
        self._step = step
        self._seen: set[str] = set()
        self._read_at = since  # set to the start of the run: everything is read after it
        self._report = Report(0, 0, [], [])

    async def run(self) -> Report:
        """Compares. Raises PaymentProviderError when the provider does not answer."""
        self._read_at = self._books.now()
        async for page in _pages(self._api.list_payments(self._since)):
            await self._compare_payments(page)
        for listing in self._api.list_returns(self._since):
            try:
                async for returns in _pages(listing.items):
                    self._compare_returns(returns)
            except (PaymentMissing, NotPermitted) as error:
                if not listing.may_be_missing:
                    raise
                why = str(error) or f"this {self._provider.name} knows none"
                self._report.notes.append(f"{listing.what} were not compared: {why}")
        await self._compare_own()
        return self._report

    async def _compare_payments(self, page: Sequence[ListedPayment]) -> None:
        paid = {payment.payment_id: payment for payment in page}
        known = {row["payment_id"]: row for row in self._books.payments(list(paid))}
        for payment_id, payment in paid.items():
            self._step(payment_id)
            self._seen.add(payment_id)
            await self._compare_payment(payment, known.get(payment_id))

    async def _compare_payment(self, payment: ListedPayment, row: Row | None) -> None:
        found = Difference(
            "not_credited",
            payment.payment_id,
            payment.amount_minor,
            payment.currency,
            payment.created_at,
            account_id=str(row["account_id"]) if row else None,
        )
        if row is not None and row["status"] == "settled":
            self._report.payments += 1
            if (row["price_minor"], row["currency"]) != (payment.amount_minor, payment.currency):
                self._report.differences.append(replace(found, kind="amount_differs"))
            return
        if row is not None and (row["resolved"] or _is_void(payment, row)):
            self._report.payments += 1
            return
        claim = (await self._api.get_payment(payment.payment_id)).claim
        if row is None and not claim.is_claimed:
            return  # a payment of another service through the same account of the provider
        self._report.payments += 1
        if self._fix:
            result = self._books.settle(
                payment.payment_id, payment.amount_minor, payment.currency, claim
            )
            found = replace(
                found,
                fixed=result["outcome"] in ("credited", "already_credited"),
                outcome=result["outcome"],
                account_id=str(result["account_id"]) if result["account_id"] else None,
            )
        self._report.differences.append(found)

    def _compare_returns(self, page: Sequence[ListedReturn]) -> None:
        ids = {listed.payment_id for listed in page}
        known = {row["payment_id"]: row for row in self._books.payments(sorted(ids))}
        for listed in page:
            row = known.get(listed.payment_id)
            if row is None:
                continue
            if row["resolved"] and row["status"] != "settled":
                continue  # a person has dealt with the payment, and nothing was credited for it
            if listed.money.moves_nothing and listed.money.id not in row["return_ids"]:
                continue
            self._step(listed.money.id)
            self._report.returns += 1
            self._compare_return(listed, row)

    def _compare_return(self, listed: ListedReturn, row: Row) -> None:
        ours = dict(zip(row["return_ids"], row["return_away_minor"], strict=True))
        returned = listed.money
        missing = returned.away_minor - ours.get(returned.id, 0)
        if missing == 0:
            return
        found = Difference(
            "not_taken_back" if missing > 0 else "not_given_back",
            row["payment_id"],
            abs(missing),
            listed.currency,
            listed.created_at,
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
        """Compares the payments that were credited here and that the provider did not list: each
        was paid before `since`, or never."""
        for row in self._books.settled_since(self._since):
            if row["payment_id"] in self._seen:
                continue
            self._step(row["payment_id"])
            self._report.payments += 1
            try:
                paid = (await self._api.get_payment(row["payment_id"])).is_paid
            except PaymentMissing:
                paid = False
            if not paid:
                self._report.differences.append(
                    Difference(
                        f"unknown_to_{self._provider.kind}",
                        row["payment_id"],
                        row["price_minor"],
                        row["currency"],
                        row["settled_at"],
                        account_id=str(row["account_id"]),
                    )
                )


def _is_void(payment: ListedPayment, row: Row) -> bool:
    """Whether all money of a payment that cannot be credited has gone back: then nobody owes
    anything."""
    fits = (row["price_minor"], row["currency"]) == (payment.amount_minor, payment.currency)
    return payment.is_refunded and not fits


async def _pages(items: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    page: list[T] = []
    async for item in items:
        page.append(item)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
