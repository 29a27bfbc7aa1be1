"""What staff and their scripts send (contract.md 5, and what the pages can do besides). Unknown
fields are ignored and coercion is lax, as for agents."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from server.http.validation import (
    Currency,
    Cursor,
    Day,
    Name255,
    Text255,
    without_nul,
)
from server.limits import INT64_MAX, most

_MOST = 500  # rows of a page
_MOST_PROBLEMS = 100  # they are worked off one by one


def _not_zero(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("not_zero", "Input should not be 0")
    return value


_NoNul = AfterValidator(without_nul)
Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=most("reason")), _NoNul
]
Anything = Annotated[str, _NoNul]
Note = Annotated[str, StringConstraints(max_length=most("description")), _NoNul]
Environment = Annotated[str, StringConstraints(pattern="^(test|live)$")]
KeyStatus = Annotated[str, StringConstraints(pattern="^(active|rotating|revoked)$")]
AccountStatus = Annotated[str, StringConstraints(pattern="^(active|suspended|closed)$")]
AccountSort = Annotated[str, StringConstraints(pattern="^(newest|oldest|email|credits|uses)$")]
AccountMatch = Annotated[str, StringConstraints(pattern="^(substring|prefix)$")]
PurchaseStatus = Annotated[str, StringConstraints(pattern="^(offered|pending|settled|returned)$")]
ProviderName = Annotated[str, StringConstraints(pattern="^(stripe|square|paypal)$")]
Role = Annotated[str, StringConstraints(pattern="^(admin|viewer)$")]
How = Annotated[str, StringConstraints(pattern="^(credited|refunded|other)$")]
_Change = Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX), AfterValidator(_not_zero)]
_Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
_Positive = Annotated[int, Field(gt=0, le=INT64_MAX)]


class PageQuery(BaseModel):
    """Which page of a list."""

    page: Annotated[int, Field(ge=1, le=INT64_MAX // _MOST)] = 1
    page_size: Annotated[int, Field(ge=1, le=_MOST)] = 50

    @property
    def offset(self) -> int:
        """How many rows come before the page."""
        return (self.page - 1) * self.page_size


class LedgerQuery(PageQuery):
    """GET /admin/api/users/{account_id}/transactions"""

    cursor: Cursor | None = None


class UsersQuery(PageQuery):
    """GET /admin/api/users"""

    status_filter: Anything | None = None
    search: Anything | None = None
    sort: AccountSort = "newest"
    match: AccountMatch = "substring"


class UserPath(BaseModel):
    """/admin/api/users/{account_id}"""

    account_id: UUID


class AdjustCreditsRequest(BaseModel):
    """POST /admin/api/users/{account_id}/credits"""

    amount_minor: _Change
    reason: Reason


class ResetFreeUsesRequest(BaseModel):
    """POST /admin/api/users/{account_id}/free-uses"""

    free_uses: _Count | None = None
    reason: Reason


class SetStatusRequest(BaseModel):
    """PUT /admin/api/users/{account_id}/status"""

    status: AccountStatus
    reason: Reason


class KeysQuery(BaseModel):
    """GET /admin/api/api-keys"""

    environment: Environment | None = None
    status_filter: KeyStatus | None = None


class CreateKeyRequest(BaseModel):
    """POST /admin/api/api-keys"""

    name: Name255
    environment: Environment = "live"
    permissions: list[Text255] = Field(
        default=["billing:read", "billing:write"], max_length=most("permissions of a key")
    )
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    description: Note | None = None
    reason: Reason | None = None


class ReasonQuery(BaseModel):
    """Why a key is rotated or revoked; old dashboards do not say."""

    reason: Reason | None = None


class KeyPath(BaseModel):
    """/admin/api/api-keys/{api_key_id}"""

    api_key_id: UUID


class DailyQuery(BaseModel):
    """GET /admin/api/analytics/daily"""

    days: Annotated[int, Field(ge=1, le=365)] = 30


class ProviderPath(BaseModel):
    """/admin/api/config/providers/{provider}"""

    provider: ProviderName


class SetProviderRequest(BaseModel):
    """PUT /admin/api/config/providers/{provider}"""

    is_enabled: bool | None = None
    config_data: dict[Text255, Anything | list[Anything] | None] | None = None
    reason: Reason | None = None


class SetPricingRequest(BaseModel):
    """PUT /admin/api/config/pricing"""

    free_uses: _Count | None = None
    pack_uses: _Positive | None = None
    pack_price_minor: _Positive | None = None
    pack_currency: Currency | None = None
    reason: Reason


class PurchasesQuery(PageQuery):
    """GET /admin/api/purchases"""

    account_id: UUID | None = None
    status_filter: PurchaseStatus | None = None


class ProblemsQuery(PageQuery):
    """GET /admin/api/payment-problems"""

    page_size: Annotated[int, Field(ge=1, le=_MOST_PROBLEMS)] = 50


class EventPath(BaseModel):
    """/admin/api/payment-events/{event_id}"""

    event_id: Name255


class ReturnPath(BaseModel):
    """/admin/api/payment-returns/{return_id}"""

    return_id: Name255


class WarningPath(BaseModel):
    """/admin/api/payment-warnings/{warning_id}"""

    warning_id: Name255


class PaymentPath(BaseModel):
    """/admin/api/payments/{payment_id}"""

    payment_id: Name255


class ResolveRequest(BaseModel):
    """POST .../{return_id}/resolve, .../{warning_id}/resolve, .../{payment_id}/reopen"""

    reason: Reason


class ResolveEventRequest(ResolveRequest):
    """POST .../{event_id}/resolve"""

    how: How | None = None
    credit_id: UUID | None = None


class ResolvePaymentRequest(ResolveRequest):
    """POST .../{payment_id}/resolve"""

    how: How
    credit_id: UUID | None = None
    amount_minor: _Positive | None = None
    currency: Currency | None = None


class StaffPath(BaseModel):
    """/admin/api/staff/{email}"""

    email: Name255


class AddStaffRequest(BaseModel):
    """POST /admin/api/staff"""

    email: Name255
    name: Name255 | None = None
    role: Role = "viewer"
    reason: Reason | None = None


class ChangeStaffRequest(BaseModel):
    """PUT /admin/api/staff/{email}"""

    role: Role | None = None
    is_active: bool | None = None
    reason: Reason


class AuditQuery(PageQuery):
    """GET /admin/api/audit-log"""

    who: Anything | None = None
    action: Anything | None = None
    resource_id: Anything | None = None
    first_day: Day | None = Field(default=None, alias="from")
    last_day: Day | None = Field(default=None, alias="to")


class LoginQuery(BaseModel):
    """GET /admin/oauth/login, for the API's description only"""

    redirect_uri: str = "/admin"


class CallbackQuery(BaseModel):
    """GET /admin/oauth/callback, for the API's description only"""

    code: str
    state: str
