"""What agents send (contract.md 2). Unknown fields are ignored; coercion is lax; the order of the
fields is the order of the error list: identity, the endpoint's own, profile."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from server.http.validation import (
    Currency,
    Cursor,
    Description,
    Name255,
    OptInSource,
    PlanName,
    Provider,
    Text,
    Text255,
    UserRole,
)
from server.limits import INT64_MAX


def _zero_tolerated(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """limit=0 was always answered, with an empty page; the bound it misses is still stated as 1."""
    try:
        return handler(value)
    except ValidationError:
        if value in ("0", 0):
            return 0
        raise


Amount = Annotated[int, Field(gt=0, le=INT64_MAX)]
Limit = Annotated[int, Field(ge=1, le=500), WrapValidator(_zero_tolerated)]


class TransactionType(StrEnum):
    """Why credits were added; all four add."""

    purchase = "purchase"
    grant = "grant"
    refund = "refund"
    adjustment = "adjustment"


class Identity(BaseModel):
    """Which account: provider and external id; the other two are stored, never looked up by."""

    oauth_provider: Provider
    external_id: Name255
    wa_id: Text255 | None = None
    tenant_id: Text255 | None = None


class Profile(BaseModel):
    """What may be updated along the way (contract.md 7.5)."""

    customer_email: Name255 | None = None
    user_role: UserRole | None = None
    agent_id: Text255 | None = None
    marketing_opt_in: bool = False
    marketing_opt_in_source: OptInSource | None = None


class CheckContext(BaseModel):
    """Where a check comes from, for the audit row."""

    agent_id: Text255 | None = None
    channel_id: Text255 | None = None
    request_id: Text255 | None = None


class ChargeMetadata(BaseModel):
    """Where a charge comes from, kept with it."""

    message_id: Text255 | None = None
    agent_id: Text255 | None = None
    channel_id: Text255 | None = None
    request_id: Text255 | None = None


class _Check(BaseModel):
    context: CheckContext = Field(default_factory=CheckContext)


class _Charge(BaseModel):
    amount_minor: Amount
    currency: Currency
    description: Description
    idempotency_key: Text255 | None = None
    metadata: ChargeMetadata = Field(default_factory=ChargeMetadata)


class _Credit(BaseModel):
    amount_minor: Amount
    currency: Currency
    description: Description
    transaction_type: TransactionType
    external_transaction_id: Text255 | None = None
    idempotency_key: Text255 | None = None


class _Account(BaseModel):
    initial_balance_minor: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    currency: Currency = "USD"
    plan_name: PlanName = "free"


class _Purchase(BaseModel):
    customer_email: Name255
    return_url: Text | None = None
    user_role: UserRole | None = None
    agent_id: Text255 | None = None
    marketing_opt_in: bool = False
    marketing_opt_in_source: OptInSource | None = None


class CheckRequest(Profile, _Check, Identity):
    """POST /v1/billing/credits/check"""


class ChargeRequest(Profile, _Charge, Identity):
    """POST /v1/billing/charges"""


class CreditRequest(Profile, _Credit, Identity):
    """POST /v1/billing/credits"""


class AccountRequest(Profile, _Account, Identity):
    """POST /v1/billing/accounts"""


class PurchaseRequest(_Purchase, Identity):
    """POST /v1/billing/purchases. The e-mail address is needed here; nothing returns to
    return_url, which clients send all the same."""


class ChargeBatchRequest(BaseModel):
    """POST /v1/billing/charges:batch. Each charge is validated by itself, so that one that is
    malformed fails alone."""

    charges: Annotated[list[Any], Field(min_length=1, max_length=1000)]


class AccountPath(BaseModel):
    """/v1/billing/accounts/{oauth_provider}/{external_id}"""

    oauth_provider: Provider
    external_id: Name255


class PurchasePath(BaseModel):
    """/v1/billing/purchases/{payment_id}"""

    payment_id: Text


class AccountQuery(BaseModel):
    """Accepted and ignored: an account is found by its identity alone."""

    wa_id: Text255 | None = None
    tenant_id: Text255 | None = None


class TransactionsQuery(BaseModel):
    """GET /v1/billing/transactions"""

    oauth_provider: Provider
    external_id: Name255
    wa_id: Text255 | None = None
    tenant_id: Text255 | None = None
    limit: Limit = 50
    offset: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    cursor: Cursor | None = None
