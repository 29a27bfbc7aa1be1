"""The meanings and types that several fields of requests and answers share."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field
from typing_extensions import TypedDict

from server.http.answers import Inline, Row, reader


def means(text: str, **schema: Any) -> Any:
    """Describes a field for the API's description; `schema` adds further keywords."""
    # An empty extra would replace what the type itself says, such as its format.
    return Field(description=text, json_schema_extra=schema) if schema else Field(description=text)


_INT64 = {"format": "int64"}
Integer = Annotated[int, Field(json_schema_extra=_INT64)]
Count = Annotated[int, Field(ge=0, json_schema_extra=_INT64)]
Positive = Annotated[int, Field(ge=1, json_schema_extra=_INT64)]
Url = Annotated[str, Field(json_schema_extra={"format": "uri"})]

# Accounts and users

OAUTH_PROVIDER = means(
    "Who vouches for the user: `oauth:` and a name, as in `oauth:google`.", pattern="^oauth:"
)
ACCOUNT_ID = means("The account.")
DRY_RUN = means("Whether only to tell what would be; nothing is written then.")
OAuthProvider = Annotated[str, OAUTH_PROVIDER]
EXTERNAL_ID = means("The user's id at the provider.")
STORED_ONCE = means("Stored when the account is created; an account is not found by it.")
IGNORED = means("Accepted and ignored.")
CUSTOMER_EMAIL = means("The user's e-mail address.")
NEW_CUSTOMER_EMAIL = means("The user's e-mail address; replaces the stored one when given.")
NEW_USER_ROLE = means("The user's role; replaces the stored one when given.")
AGENT_ID = means("The agent that works for the user.")
MARKETING_OPT_IN = means("Whether the user agreed to marketing.")
NEW_OPT_IN = means("Whether the user agreed to marketing; true sets it, false clears nothing.")
MARKETING_OPT_IN_AT = means("When the user agreed to marketing.")
MARKETING_OPT_IN_SOURCE = means("Where the user agreed to marketing.")
PLAN_NAME = means("The account's plan.")
STATE = means("The state it is in.")
BALANCE_MINOR = means("Reserved for real money; nothing can spend it.")
CREDITS_LEFT = means("Paid credits left.")
FREE_USES_REMAINING = means("Free uses left.")
TOTAL_USES = means("How often the account was charged.")
HAS_CREDIT = means("Whether the user may go on.")
UPDATED_AT = means("When the account last changed, in UTC.")

# The ledger

AMOUNT = means("Credits: 1 is one use, whatever the currency.")
ACCOUNT_CURRENCY = means("The account's currency.")
LEDGER_CURRENCY = means("The currency of its charges and credits.")
SAME_CURRENCY = means("Three letters; it must be the account's.")
DESCRIPTION = means("For people who read the history.")
IDEMPOTENCY_KEY = means(
    "Names this request within the account: a repeat makes nothing new and is answered 409 "
    "with what the first one made. Wins over the Idempotency-Key header."
)
CHARGE_ORIGIN = means("Where the charge comes from; kept with it.")
CHANNEL_ID = means("Where the agent and the user talk.")
BALANCE_AFTER = means("Paid credits after this entry; a free use leaves them as they were.")
NEW_BALANCE = means("Paid credits afterwards.")
CREDIT_ID = means("The credit.")
CHARGE_ID = means("The charge.")
HOLD_AMOUNT = means("Credits to keep: the most that may be used.")
HOLD_ID = means("The hold.")
HOLDS_LIMIT = means("How many holds at most.")
LIFETIME = means("How long it lasts from now, in seconds; at its end it keeps nothing any more.")
HELD = means("Paid credits that open holds keep; absent while nothing is held.")
AVAILABLE = means("Paid credits that no open hold keeps.")
REVERSAL_ID = means("The reversal, an entry of the account's history.")
REVERSED = means("How much of it has been reversed by now, in all.")
CORRECTS = means("The charge or credit that this entry reverses; absent for other entries.")
TRANSACTION_TYPE = means("Why credits are added.")
TRANSACTION_ID = means("The charge's or the credit's id.")
ENTRY_TYPE = means("A charge or a credit.")
ENTRY_PAYMENT_ID = means("The payment's id at the payment provider; null for charges.")
ENTRY_ORIGIN = means("Where the charge comes from; null for credits.")

WRITER = means("An API key's name and first characters, an address, a login, or a provider.")
WriterKind = Annotated[
    Literal["api_key", "staff", "database", "payment_provider", "old_service"],
    means("Who wrote it: an agent by its key, staff, a login of the database, or another system."),
]

# Books at a past time

BALANCE_STATE = means(
    "`known`; `before_account`: it did not exist yet; `before_books`: it was still one of the old"
    " service, in another unit."
)
PAID_CREDITS_THEN = means("Paid credits at that time; null where they are not known.")
FREE_USES_THEN = means("Free uses at that time; null where they are not known.")
LAST_ENTRY = means("The entry that left it so; null where there was none yet.")
AT_TIME = means("The time: a UTC day means its beginning; a time without a zone is in UTC.")

# Payments

PAYMENT_ID = means("The payment's id at the payment provider.")
CREDITS_EXPIRE_AT = means("When what is left of these credits ends; never without it.")
EFFECTIVE_AT = means(
    "When these credits come; at once without it. Until then `credit_id` names an entry that is not"
    " written, and `balance_after` is the balance of now."
)
PRIORITY = means("Credits of lower numbers are spent first; 50 without it.")
GRANT_SOURCE = means("Where these credits come from; `grant` without it.")
CREDIT_SOURCE = means(
    "Where these credits come from; `promotion` goes with grants and adjustments. Without it it"
    " follows from `transaction_type`."
)
PRICE_CURRENCY = means("The currency of the price.")
PROVIDER = means("The payment provider.")
EVENT_ID = means("The event's id at the payment provider.")
WARNING_ID = means("The report's id at the payment provider, or the second credit's id.")
RETURN_ID = means("The refund's or dispute's id at the payment provider.")
RESOLUTION = means("How a person put it right.")
HOW = means("How it was dealt with: `credited` by hand, `refunded`, or `other`.")
HOW_RESOLVED = means("How it was put right.")

# API keys

KEY_NAME = means("Whose key it is, for people.")
KEY_PREFIX = means("The key's first 20 characters, to know it by.")
ENVIRONMENT = means("A label: `test` and `live` keys see the same data.")
PERMISSIONS = means("What the key may do: `billing:read`, `billing:write`.")
EXPIRES_AT = means("When the key ends; null when it does not.")
PURPOSE = means("What it is for.")
PLAINTEXT_KEY = means("The key's secret. It is shown this once and stored nowhere.")

# Staff and the audit log

EMAIL = means("The staff member's e-mail address.")
FULL_NAME = means("Their full name.")
ROLE = means("`admin` may change things, `viewer` may look.")
IS_ACTIVE = means("Whether they may sign in.")
AUDIT_REASON = means("Why, for the audit log.")
WHO = means("The staff member's e-mail address, or the database role.")
WHO_WANTED = means("The staff member's e-mail address, the database role, or the database login.")
ACTION = means(
    "What was done: a kind of thing, a dot and a verb. A word before the dot finds all of its kind."
)
RESOURCE_ID = means("The id of what it was done to.")

# Lists

CURSOR = means("The `next_cursor` of the page before; goes without an offset.")
NEXT_CURSOR = means("Where the next page begins, for `cursor`; null on the last page.")
HAS_MORE = means("Whether there is a page after this one.")
TOTAL = means("How many there are in all.")
PAGE = means("Which page, from 1.")
PAGE_SIZE = means("How many entries a page has.")
TOTAL_PAGES = means("How many pages there are.")
TRANSACTIONS = means("The entries of this page.")
STATUS_FILTER = means("Only those in this state.")

# Caps

CAP_SCOPE = means(
    "What is capped: an account, an API key and those it is rotated to, an agent, or all."
)
CAP_PERIOD = means("In which time: a minute, day or month of the UTC calendar.")
CAP_MODE = means(
    "`hard` refuses what would exceed the limit, `alert` only tells that it is used up."
)
CAP_LIMIT = means("Credits that may be charged in that time.")
CAP_USED = means("Credits that were charged in this minute, day or month so far.")
CAP_RESETS_AT = means("When the next minute, day or month begins, in UTC.")

# Anything

ITS_ID = means("Its id.")
WHEN = means("When, in UTC.")

# Errors

DETAIL = means("What went wrong, for people.")
CODE = means("What went wrong, for programs: decide by this.")
REQUEST_ID = means("The request's id, as in X-Request-ID.")
PURCHASE_URL = means("Where credits can be bought; absent unless the operator set it.")
HINT = means("What to do about a missing or misplaced API key; otherwise absent.")


class AccountState(TypedDict):
    """What agents and staff alike are told of an account."""

    account_id: Annotated[UUID, ACCOUNT_ID]
    oauth_provider: OAuthProvider
    external_id: Annotated[str, EXTERNAL_ID]
    wa_id: Annotated[str | None, STORED_ONCE]
    tenant_id: Annotated[str | None, STORED_ONCE]
    customer_email: Annotated[str | None, CUSTOMER_EMAIL]
    balance_minor: Annotated[Count, BALANCE_MINOR]
    currency: Annotated[str, LEDGER_CURRENCY]
    plan_name: Annotated[str, PLAN_NAME]
    status: Annotated[Literal["active", "suspended", "closed"], STATE]


class ChargeOrigin(TypedDict):
    """Where a charge comes from."""

    message_id: Annotated[str | None, means("The message that was worked on.")]
    agent_id: Annotated[str | None, AGENT_ID]
    channel_id: Annotated[str | None, CHANNEL_ID]
    request_id: Annotated[str | None, means("The agent's own id for what it worked on.")]


Origin = Annotated[ChargeOrigin, Inline()]


_COLUMNS = tuple(f"metadata_{name}" for name in ChargeOrigin.__annotations__)
_origin = reader(ChargeOrigin, _COLUMNS, prefix="metadata_")


def origin_of_charge(row: Row) -> ChargeOrigin | None:
    """Where an entry of a history comes from; None for credits."""
    return _origin(row) if row["type"] == "charge" else None


class Page(TypedDict):
    """Says which page of a list an answer is."""

    page: Annotated[Count, PAGE]
    page_size: Annotated[Count, PAGE_SIZE]


class OpenPage(Page):
    """A page of a list whose length is not counted."""

    has_more: Annotated[bool, HAS_MORE]


class BoundedPage(OpenPage):
    """A page of a list whose length is counted up to a limit, so that the count is quick."""

    total: Annotated[Count, means("How many there are in all; the count stops at 10,000.")]
    total_is_minimum: Annotated[bool, means("Whether there are more than `total`.")]


class CountedPage(Page):
    """A page of a list whose length is counted."""

    total: Annotated[Count, TOTAL]
    total_pages: Annotated[Count, TOTAL_PAGES]


class LedgerRow(TypedDict):
    """What agents and staff see of an entry of an account's ledger."""

    transaction_id: Annotated[UUID, TRANSACTION_ID]
    type: Annotated[Literal["charge", "credit"], ENTRY_TYPE]
    amount_minor: Annotated[
        Integer,
        means(
            "Credits; negative for charges, and for credits that were taken away. 0 where only a"
            " free use was given back."
        ),
    ]
    currency: Annotated[str, ACCOUNT_CURRENCY]
    description: Annotated[str, DESCRIPTION]
    created_at: Annotated[datetime, WHEN]
    balance_after: Annotated[Count, BALANCE_AFTER]
    transaction_type: Annotated[
        Literal["purchase", "grant", "refund", "adjustment"] | None,
        means("Why credits were added or taken away; null for charges."),
    ]
    external_transaction_id: Annotated[str | None, ENTRY_PAYMENT_ID]
