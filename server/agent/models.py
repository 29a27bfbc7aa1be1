"""The requests of agents (contract.md 2). Unknown fields are ignored and values are coerced
leniently. The order of the fields is the order of the error list: identity, the endpoint's own
fields, profile."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from server.http import fields as f
from server.http.statements import Moment
from server.http.validation import (
    Currency,
    Cursor,
    Description,
    Name255,
    OptInSource,
    PlanName,
    Provider,
    RequestModel,
    Text,
    Text255,
    UserRole,
)
from server.limits import INT64_MAX


def _zero_tolerated(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Accepts limit=0, which was always answered with an empty page. The stated bound is still
    1."""
    try:
        return handler(value)
    except ValidationError:
        if value in ("0", 0):
            return 0
        raise


Amount = Annotated[int, Field(gt=0, le=INT64_MAX)]
Lifetime = Annotated[int, Field(ge=1, le=86400)]
Limit = Annotated[int, Field(ge=1, le=500), WrapValidator(_zero_tolerated)]


class TransactionType(StrEnum):
    """Why credits were added. All four kinds add."""

    purchase = "purchase"
    grant = "grant"
    refund = "refund"
    adjustment = "adjustment"


class Identity(RequestModel):
    """The account's identity: provider and external id. The other two fields are stored; no look-up
    uses them."""

    oauth_provider: Annotated[Provider, f.OAUTH_PROVIDER]
    external_id: Annotated[Name255, f.EXTERNAL_ID]
    wa_id: Annotated[Text255 | None, f.STORED_ONCE] = None
    tenant_id: Annotated[Text255 | None, f.STORED_ONCE] = None


class Profile(RequestModel):
    """Profile fields that the request may update (contract.md 7.5)."""

    customer_email: Annotated[Name255 | None, f.NEW_CUSTOMER_EMAIL] = None
    user_role: Annotated[UserRole | None, f.NEW_USER_ROLE] = None
    agent_id: Annotated[Text255 | None, f.AGENT_ID] = None
    marketing_opt_in: Annotated[bool, f.NEW_OPT_IN] = False
    marketing_opt_in_source: Annotated[OptInSource | None, f.MARKETING_OPT_IN_SOURCE] = None


class CheckContext(RequestModel):
    """The origin of a check, for the audit row."""

    agent_id: Annotated[Text255 | None, f.AGENT_ID] = None
    channel_id: Annotated[Text255 | None, f.CHANNEL_ID] = None
    request_id: Annotated[
        Text255 | None, f.means("The agent's own id for what it will work on.")
    ] = None


class _Check(RequestModel):
    context: Annotated[
        CheckContext, f.means("Where the check comes from; kept with its audit record.")
    ] = Field(default_factory=CheckContext)


class _Credit(RequestModel):
    amount_minor: Annotated[Amount, f.AMOUNT]
    currency: Annotated[Currency, f.SAME_CURRENCY]
    description: Annotated[Description, f.DESCRIPTION]
    transaction_type: Annotated[TransactionType, f.TRANSACTION_TYPE]
    external_transaction_id: Annotated[Text255 | None, f.PAYMENT_ID] = None
    idempotency_key: Annotated[Text255 | None, f.IDEMPOTENCY_KEY] = None
    expires_at: Annotated[Moment | None, f.CREDITS_EXPIRE_AT] = None
    effective_at: Annotated[Moment | None, f.EFFECTIVE_AT] = None
    priority: Annotated[Annotated[int, Field(ge=0, le=100)] | None, f.PRIORITY] = None
    source: Annotated[
        Literal["purchase", "grant", "promotion", "refund"] | None, f.CREDIT_SOURCE
    ] = None


class _Account(RequestModel):
    initial_balance_minor: Annotated[
        int, Field(ge=0, le=INT64_MAX), f.means("Kept as `balance_minor`, which nothing can spend.")
    ] = 0
    currency: Annotated[
        Currency, f.means("Three letters: the currency of its charges and credits.")
    ] = "USD"
    plan_name: Annotated[PlanName, f.PLAN_NAME] = "free"


class _Purchase(RequestModel):
    customer_email: Annotated[
        Name255,
        f.means(
            "Where the payment provider sends its receipt; stored when the account is created."
        ),
    ]
    return_url: Annotated[Text | None, f.means("Accepted and ignored.")] = None
    save_card: Annotated[
        bool, f.means("Whether the provider saves the card, so that a top-up can charge it.")
    ] = False
    user_role: Annotated[
        UserRole | None, f.means("The user's role; stored when the account is created.")
    ] = None
    agent_id: Annotated[Text255 | None, f.AGENT_ID] = None
    marketing_opt_in: Annotated[
        bool, f.means("Whether the user agreed to marketing; stored when the account is created.")
    ] = False
    marketing_opt_in_source: Annotated[OptInSource | None, f.MARKETING_OPT_IN_SOURCE] = None


class CheckHold(RequestModel):
    """A hold that a check makes where the user may go on."""

    amount_minor: Annotated[Amount, f.HOLD_AMOUNT]
    expires_in_seconds: Annotated[Lifetime, f.LIFETIME] = 900
    description: Annotated[Description, f.DESCRIPTION] = "one use"
    idempotency_key: Annotated[
        Text255 | None,
        f.means("Names this hold within the account: a repeat gets the hold that was made."),
    ] = None


class CheckRequest(Profile, _Check, Identity):
    """POST /v1/billing/credits/check"""

    hold: Annotated[
        CheckHold | None,
        f.means(
            "Keeps credits for the work in the same call, for a key with `billing:write`. Where it"
            " cannot be made, `has_credit` is false."
        ),
    ] = None


class CreditRequest(Profile, _Credit, Identity):
    """POST /v1/billing/credits"""


class AccountRequest(Profile, _Account, Identity):
    """POST /v1/billing/accounts"""

    customer_email: Annotated[Name255 | None, f.CUSTOMER_EMAIL] = None
    user_role: Annotated[UserRole | None, f.means("The user's role.")] = None
    marketing_opt_in: Annotated[bool, f.MARKETING_OPT_IN] = False


class PurchaseRequest(_Purchase, Identity):
    """POST /v1/billing/purchases. The e-mail address is required here. return_url is not used,
    though clients send it."""


class AccountPath(RequestModel):
    """/v1/billing/accounts/{oauth_provider}/{external_id}"""

    oauth_provider: Annotated[Provider, f.OAUTH_PROVIDER]
    external_id: Annotated[Name255, f.EXTERNAL_ID]


class PurchasePath(RequestModel):
    """/v1/billing/purchases/{payment_id}"""

    payment_id: Annotated[Text, f.PAYMENT_ID]


class AccountQuery(RequestModel):
    """Accepted and ignored: an account is found by its identity alone."""

    wa_id: Annotated[Text255 | None, f.IGNORED] = None
    tenant_id: Annotated[Text255 | None, f.IGNORED] = None


class TransactionsQuery(RequestModel):
    """GET /v1/billing/transactions"""

    oauth_provider: Annotated[Provider, f.OAUTH_PROVIDER]
    external_id: Annotated[Name255, f.EXTERNAL_ID]
    wa_id: Annotated[Text255 | None, f.IGNORED] = None
    tenant_id: Annotated[Text255 | None, f.IGNORED] = None
    limit: Annotated[Limit, f.means("How many entries at most.")] = 50
    offset: Annotated[
        int, Field(ge=0, le=INT64_MAX), f.means("How many of the newest entries to pass over.")
    ] = 0
    cursor: Annotated[Cursor | None, f.CURSOR] = None
