"""What the code of a payment provider must do, and the types that it shares with the other
packages.

The folder server/payments/<kind>/ has an object PROVIDER, which is a PaymentProvider. None of its
files knows about HTTP requests, the database or pages: the webhook's handler, the commands and the
console call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from server.config import ProviderConnection


class PaymentProviderError(Exception):
    """The provider did not do what was asked. The text says why, for the log, and contains no
    secret."""


class NotPermitted(PaymentProviderError):
    """The credential may not do this."""


class RequestRefused(PaymentProviderError):
    """The provider refuses what was asked, and would refuse it again."""


class PaymentMissing(Exception):
    """The provider does not know the payment."""


class NotConfigured(Exception):
    """A setting that this call needs is missing."""


class WrongSignature(Exception):
    """The provider has not signed the event. The text says what is wrong, for the log."""


class StaleSignature(Exception):
    """The provider has signed the event, but too long ago. `age` is in seconds."""

    def __init__(self, age: int, tolerance: int) -> None:
        super().__init__(f"signed {age} s ago, and {tolerance} s are allowed")
        self.age = age


class InvalidEvent(Exception):
    """The signed text is not an event. The text of this error says what is wrong with it, for the
    log."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a provider. A secret is stored encrypted; a public setting (`is_public`) is
    stored as it is. A secret with `may_be_several` may have several values at a time. The
    provider's row in billing_data.payment_providers says the same of both.

    A right value matches `pattern` as a whole. `shape` describes that, after the words "must be". A
    secret's pattern must match nothing that people write, because the settings page refuses reasons
    in which it finds a secret. The other members are texts of the settings page: the name of the
    field, the message for a wrong value, the hint below the empty field, and the text where the
    setting is missing."""

    name: str
    title: str
    pattern: str
    shape: str
    invalid: str
    hint: str
    missing: str
    is_public: bool = False
    may_be_several: bool = False


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """A provider's settings, decrypted. The secrets are not shown when this is printed."""

    values: Mapping[str, tuple[str, ...]] = field(repr=False)

    def all_of(self, name: str) -> tuple[str, ...]:
        """The values of a setting that may have several."""
        return self.values.get(name, ())

    def get(self, name: str) -> str:
        """The value of a setting; empty when it is not set."""
        return next(iter(self.all_of(name)), "")


@dataclass(frozen=True, slots=True)
class SavedCard:
    """A card, or another means of payment, that the provider keeps and may charge without its
    owner. `text` names it to people, as "visa 4242"."""

    customer_id: str
    payment_method_id: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Purchase:
    """The purchase that the provider is to take a payment for. With `save_card` the card is saved
    when the purchase is paid. With `card` that saved card is to pay, by SavedCards.charge_card."""

    purchase_id: str
    account_id: str
    oauth_provider: str
    external_id: str
    uses: int
    price_minor: int
    currency: str
    customer_email: str = field(repr=False)
    save_card: bool = False
    card: SavedCard | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The purchase that a payment names. A part that is missing or malformed is None. `is_claimed`:
    the payment's metadata has something that this service, or the old one, writes. `is_foreign`:
    the payment belongs to another account of the provider, or names something that cannot be an id
    of ours."""

    is_claimed: bool = False
    is_foreign: bool = False
    account_id: UUID | None = None
    purchase_id: UUID | None = None
    oauth_provider: str | None = None
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as the provider has it now. Amounts are in minor units. `status` is the provider's
    word, but `succeeded` once the payment is paid, and `canceled` when it can no longer be paid.
    The user's client needs `client_secret` to pay. Of a payment by a saved card: `is_untried` until
    the card is charged; `is_processing` while nobody knows whether it will be paid; `problem` is
    why it was not, in one word such as expired_card, and empty where nothing went wrong."""

    id: str
    client_secret: str = field(repr=False)
    amount_minor: int
    currency: str
    status: str
    claim: Claim
    is_untried: bool = False
    is_processing: bool = False
    problem: str = ""

    @property
    def is_paid(self) -> bool:
        """Whether the money has arrived."""
        return self.status == "succeeded"


@dataclass(frozen=True, slots=True)
class MoneyReturn:
    """A refund or a dispute. `away_minor` is how much of its money is away from us now, in the
    payment's currency. `state`: inquiry (moves no money yet), open, closed. `transactions` is the
    number of a dispute's balance transactions, None where the provider does not tell it."""

    id: str
    kind: str
    amount_minor: int
    away_minor: int
    state: str
    transactions: int | None = None

    @property
    def moves_nothing(self) -> bool:
        """Whether it is an inquiry, which moves no money."""
        return self.state == "inquiry" and self.away_minor == 0


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund to ask for. `refund_id` is its id here, which the provider keeps with it. With
    `may_be_made`, it was asked for before and it is not known whether the provider made it."""

    refund_id: str
    payment_id: str
    amount_minor: int
    may_be_made: bool = False


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """The arguments of billing.process_payment_event for an event. Amounts are in minor units.
    `action`: settle, return, unreadable, warn, acknowledge or ignore."""

    id: str | None  # None for an event that cannot be stored and is not used
    type: str
    livemode: bool | None
    payload: str
    created: datetime | None = None  # the time for which the event reports
    claim: Claim = Claim()
    complaint: str = ""  # why an event of a kind that we use cannot be used, for the log
    action: str = "ignore"
    payment_id: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    returns: tuple[MoneyReturn, ...] = ()
    unlisted_refunds_of: str | None = None  # the provider must be asked about its refunds first
    warning_id: str | None = None  # a bank's report of fraud
    warning_is_open: bool | None = None  # the money has not gone back yet


@dataclass(frozen=True, slots=True)
class ListedPayment:
    """A payment that succeeded, as the provider lists it. `is_refunded`: all its money went
    back."""

    payment_id: str
    amount_minor: int
    currency: str
    created_at: datetime
    is_refunded: bool


@dataclass(frozen=True, slots=True)
class ListedReturn:
    """A refund or a dispute as the provider lists it, in the payment's currency."""

    payment_id: str
    currency: str
    created_at: datetime
    money: MoneyReturn


@dataclass(frozen=True, slots=True)
class ReturnListing:
    """One list of the provider: what it lists, and its items. With `may_be_missing`, it is no fault
    when the provider does not show it; the report notes that it was not compared."""

    what: str
    items: AsyncIterator[ListedReturn]
    may_be_missing: bool = False


@dataclass(frozen=True, slots=True)
class Webhook:
    """How the provider's events arrive: `header` is the header with their signature, and
    `description` says what that is made of. `events` are the types that have an effect."""

    header: str
    description: str
    events: Sequence[str]


@dataclass(frozen=True, slots=True)
class Console:
    """The texts of the settings page about a provider. Each step has a text. The step with
    `has_address` is followed by the webhook's address, `then` and the events."""

    disabled: str
    steps: Sequence[Step]
    unreachable: str


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do to set a provider up."""

    text: str
    then: str = ""
    has_address: bool = False


class ProviderApi(Protocol):
    """A provider's API with one set of settings. Every call may raise PaymentProviderError."""

    async def begin_payment(self, purchase: Purchase) -> Payment:
        """Asks for the payment of a purchase. When it is asked again for the same purchase, it may
        return the same payment. A payment that is not attached to the purchase is never paid."""

    async def get_payment(self, payment_id: str) -> Payment:
        """Reads a payment. Raises PaymentMissing."""

    async def refund(self, refund: Refund) -> str:
        """Gives money of a payment back, and returns the refund's id at the provider. When it is
        asked again for the same `refund_id`, the money goes back once. Raises RequestRefused,
        PaymentMissing."""

    async def complete(self, event: PaymentEvent) -> PaymentEvent:
        """Adds to an event the refunds that it mentions but does not contain (unlisted_refunds_of).
        Where the provider does not show them, the event's action becomes `unreadable`."""

    def list_payments(self, since: datetime) -> AsyncIterator[ListedPayment]:
        """The payments made since then that succeeded."""

    def list_returns(self, since: datetime) -> Sequence[ReturnListing]:
        """The refunds and disputes made since then."""

    async def test(self) -> None:
        """Raises unless the provider accepts the credential. May raise PaymentMissing, where the
        address is not the provider's."""

    async def close(self) -> None:
        """Closes the connections."""


@runtime_checkable
class SavedCards(Protocol):
    """What the API of a provider does besides, where it keeps cards. `begin_payment` understands
    save_card and card there. Every call may raise PaymentProviderError and PaymentMissing."""

    async def get_saved_card(self, payment_id: str) -> SavedCard | None:
        """The card that a payment saved. None unless it is paid and saved one."""

    async def charge_card(self, payment_id: str) -> Payment:
        """Has the saved card of a payment pay it, and returns the payment as it is then. A payment
        is paid once at most, however often this is called."""

    async def cancel_payment(self, payment_id: str) -> Payment:
        """Makes that a payment can never be paid, unless it is, and returns it."""


class PaymentProvider(Protocol):
    """A payment provider without settings."""

    @property
    def kind(self) -> str:
        """Its name in rows, paths and commands, which is also that of its folder."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def credential(self) -> str:
        """The name of the setting without which it cannot be called."""

    @property
    def settings(self) -> Sequence[Setting]:
        """Its settings, in the order in which people see them."""

    @property
    def webhook(self) -> Webhook:
        """How its events arrive."""

    @property
    def console(self) -> Console:
        """The texts of the settings page about it."""

    def payment_page(self, payment_id: str, is_test: bool) -> str | None:
        """The address at which staff see the payment at the provider, if there is one."""

    @property
    def slow_modules(self) -> Sequence[str]:
        """Large packages that it needs, to be imported when the server has started."""

    def client_key(self, settings: ProviderSettings) -> str:
        """The public key that the user's client needs to pay; may be empty."""

    async def connect(
        self, settings: ProviderSettings, connection: ProviderConnection
    ) -> ProviderApi:
        """Its API with these settings. This makes no request yet."""

    def example_event(
        self, event_id: str, payment_id: str, purchase: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """An event that settles a payment, for the API's description. `purchase` has the values of
        Claim that name the purchase."""

    def read_event(self, settings: ProviderSettings, signature: str, body: bytes) -> PaymentEvent:
        """The event of a webhook request. `signature` is the webhook's header; when it was sent
        more than once, the values are separated by commas. Raises NotConfigured, WrongSignature,
        StaleSignature, and InvalidEvent for what is not an event, or for an event of a type that is
        used without an id to store it by."""
