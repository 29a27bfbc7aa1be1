"""What the service answers, and what requests are made of. tests/clients compares every field with
the service's own description."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple
from uuid import UUID

import msgspec

if TYPE_CHECKING:
    AccountStatus = Literal["active", "suspended", "closed"]
    CapPeriod = Literal["minute", "day", "month"]
    CapScope = Literal["account", "api_key", "agent", "all"]
    BalanceState = Literal["known", "before_account", "before_books"]
    EntryType = Literal["charge", "credit"]
    HoldStatus = Literal["open", "captured", "released", "expired"]
    Overage = Literal["refuse", "available"]
    PaidWith = Literal["free", "paid"]
    TopUpStatus = Literal["on", "off"]
    TopUpEnd = Literal[
        "erased", "failures", "merged", "price_changed", "replaced", "staff", "withdrawn"
    ]
    AttemptStatus = Literal["open", "succeeded", "failed", "canceled"]
    RowKind = Literal["opening", "entry", "free_uses", "closing"]
    CreditSource = Literal["purchase", "grant", "promotion", "refund"]
    TransactionType = Literal["purchase", "grant", "refund", "adjustment"]
    WriterKind = Literal["api_key", "staff", "database", "payment_provider", "old_service"]
    WhyOver = Literal["payment_canceled", "payment_unreadable"]
else:
    # A word that a later release of the service adds must not make its answer unreadable.
    AccountStatus = AttemptStatus = BalanceState = CapPeriod = CapScope = CreditSource = str
    EntryType = HoldStatus = Overage = PaidWith = RowKind = TopUpEnd = TopUpStatus = str
    TransactionType = WriterKind = WhyOver = str


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class User(NamedTuple):
    """A user: who vouches for them (`oauth:` and a name), and their id there."""

    oauth_provider: str
    external_id: str


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of what is sent. What is not given is not sent."""


class Profile(Request, frozen=True, kw_only=True):
    """What an agent knows about a user. The service stores what is given."""

    customer_email: str | None = None
    user_role: str | None = None
    agent_id: str | None = None
    marketing_opt_in: bool = False
    marketing_opt_in_source: str | None = None
    wa_id: str | None = None
    tenant_id: str | None = None


class NewHold(Request, frozen=True, kw_only=True):
    """A hold that a check makes where the user may go on. The `idempotency_key` names it within the
    account; by default each check makes one."""

    amount: int
    expires_in_seconds: int | None = None
    description: str | None = None
    idempotency_key: str | None = None


class Context(Request, frozen=True, kw_only=True):
    """Where a check comes from."""

    agent_id: str | None = None
    channel_id: str | None = None
    request_id: str | None = None


class Metadata(Request, frozen=True, kw_only=True):
    """Where a charge or a hold comes from."""

    message_id: str | None = None
    agent_id: str | None = None
    channel_id: str | None = None
    request_id: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what the service answers."""


class Written(Answer, frozen=True, kw_only=True):
    """The answer to a request that writes."""

    replayed: bool = False
    """Whether an earlier request with the same key has written this. The body does not say it."""


class NextExpiry(Answer, frozen=True, kw_only=True):
    """When credits end next, and how many."""

    at: Moment
    amount_minor: int


class CreditCheck(Answer, frozen=True, kw_only=True):
    """Whether a user may go on; `reason` says why not. The fields from `low_balance` on are None
    where the service says nothing about them."""

    has_credit: bool
    credits_remaining: int | None
    plan_name: str | None
    reason: str | None
    free_uses_remaining: int | None
    total_uses: int | None
    purchase_required: bool
    purchase_price_minor: int | None
    purchase_uses: int | None
    low_balance: bool | None = None
    held: int | None = None
    available: int | None = None
    hold: Hold | None = None
    next_expiry: NextExpiry | None = None
    purchase_url: str | None = None


class Origin(Answer, frozen=True, kw_only=True):
    """Where a charge or a hold came from."""

    message_id: str | None
    agent_id: str | None
    channel_id: str | None
    request_id: str | None


class Cap(Answer, frozen=True, kw_only=True):
    """How many credits may be charged in a period, and how many have been."""

    cap_id: UUID
    scope: CapScope
    period: CapPeriod
    limit: int
    used: int
    resets_at: Moment


class Charge(Written, frozen=True, kw_only=True):
    """A charge as it stands in the ledger. A free use pays a charge whole, whatever its amount."""

    charge_id: UUID
    account_id: UUID
    amount_minor: int
    currency: str
    balance_after: int
    created_at: Moment
    description: str
    metadata: Origin
    paid_with: PaidWith
    free_uses_remaining: int | None = None


class Reversal(Written, frozen=True, kw_only=True):
    """A charge that was given back, whole or in part."""

    reversal_id: UUID
    charge_id: UUID
    account_id: UUID
    amount_minor: int
    currency: str
    paid_with: PaidWith
    balance_after: int
    free_uses_remaining: int
    reversed_minor: int
    reason: str
    created_at: Moment


class Credit(Written, frozen=True, kw_only=True):
    """Paid credits that were added. The fields from `expires_at` on are None for plain credits."""

    credit_id: UUID
    account_id: UUID
    amount_minor: int
    currency: str
    balance_after: int
    transaction_type: TransactionType
    description: str
    external_transaction_id: str | None
    created_at: Moment
    expires_at: Moment | None = None
    effective_at: Moment | None = None
    priority: int | None = None
    source: CreditSource | None = None


class Account(Written, frozen=True, kw_only=True):
    """A user's account. `held` and `available` are told when it is read and something is held."""

    account_id: UUID
    oauth_provider: str
    external_id: str
    wa_id: str | None
    tenant_id: str | None
    customer_email: str | None
    balance_minor: int
    currency: str
    plan_name: str
    status: AccountStatus
    paid_credits: int
    marketing_opt_in: bool
    marketing_opt_in_at: Moment | None
    marketing_opt_in_source: str | None
    created_at: Moment
    updated_at: Moment
    held: int | None = None
    available: int | None = None


class Payment(Written, frozen=True, kw_only=True):
    """A payment as the payment provider has it now. `payable` is false, and `code` says why, when
    it can no longer be paid."""

    payment_id: str
    client_secret: str
    amount_minor: int
    currency: str
    uses_purchased: int
    status: str
    publishable_key: str
    credits_added: int
    payable: bool = True
    code: WhyOver | None = None


class Balance(Answer, frozen=True, kw_only=True):
    """What an account had at a time, and which entry left it so."""

    account_id: UUID
    at: Moment
    state: BalanceState
    paid_credits: int | None
    free_uses: int | None
    transaction_id: UUID | None


class StatementRow(Answer, frozen=True, kw_only=True):
    """A row of a statement."""

    kind: RowKind
    at: Moment | None
    ledger_version: int
    type: EntryType | None
    transaction_type: TransactionType | None
    paid_with: PaidWith | None
    amount_minor: int | None
    credits_change: int | None
    balance_after: int | None
    free_uses_change: int | None
    free_uses_after: int | None
    currency: str | None
    reason: str | None
    corrects_id: UUID | None
    transfer_id: UUID | None
    transaction_id: UUID | None
    external_transaction_id: str | None
    metadata_message_id: str | None
    metadata_agent_id: str | None
    metadata_channel_id: str | None
    metadata_request_id: str | None
    writer_kind: WriterKind | None


class Statement(Answer, frozen=True, kw_only=True):
    """A period of an account: opening, every entry, closing. The end is not included."""

    account_id: UUID
    period_start: Moment
    period_end: Moment
    entry_count: int
    rows: tuple[StatementRow, ...]


class Transaction(Answer, frozen=True, kw_only=True):
    """An entry of an account's history. `amount_minor` of a charge is negative."""

    transaction_id: UUID
    type: EntryType
    amount_minor: int
    currency: str
    description: str
    created_at: Moment
    balance_after: int
    transaction_type: TransactionType | None
    external_transaction_id: str | None
    metadata: Origin | None
    corrects_id: UUID | None = None


class TransactionPage(Answer, frozen=True, kw_only=True):
    """A page of an account's history, newest first. `next_cursor` leads to the next page."""

    transactions: tuple[Transaction, ...]
    total_count: int
    has_more: bool
    next_cursor: str | None


class TriedHold(Written, frozen=True, kw_only=True):
    """A hold that was only tried: what it would be."""

    account_id: UUID
    amount_minor: int
    currency: str
    status: HoldStatus
    paid_with: PaidWith
    captured_minor: int | None
    charge_id: UUID | None
    late: bool
    description: str
    metadata: Origin
    created_at: Moment
    expires_at: Moment
    settled_at: Moment | None
    balance: int
    held: int
    available: int
    free_uses_available: int


class Hold(TriedHold, frozen=True, kw_only=True):
    """Credits, or a free use, that are kept for a piece of work, and what the account has now.
    `available` is beside all holds; `late` says that it was captured after it had expired."""

    hold_id: UUID


class HoldPage(Answer, frozen=True, kw_only=True):
    """Some of a user's holds, newest first. The next page comes `after` the last one."""

    holds: tuple[Hold, ...]
    has_more: bool


class TopUpConsent(Answer, frozen=True, kw_only=True):
    """What the user agreed to, as it was recorded."""

    version: str
    text: str
    at: Moment


class TopUpAttempt(Answer, frozen=True, kw_only=True):
    """The newest attempt to charge the card. All is None when there was none yet."""

    status: AttemptStatus | None
    payment_id: str | None
    at: Moment | None


class TopUp(Answer, frozen=True, kw_only=True):
    """What the user agreed to have charged when credits run low, and how it goes. Amounts are in
    minor units of the currency; `problem_text` is for the user."""

    account_id: UUID
    status: TopUpStatus
    threshold: int
    packs: int
    uses: int
    amount_minor: int
    currency: str
    monthly_cap_minor: int
    spent_this_month_minor: int
    card: str | None
    consent: TopUpConsent
    failures: int
    problem: str | None
    problem_text: str | None
    next_attempt_at: Moment | None
    ended_at: Moment | None
    end_reason: TopUpEnd | None
    attempt: TopUpAttempt
