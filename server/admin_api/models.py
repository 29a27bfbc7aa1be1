"""The requests of staff and their scripts (contract.md 5, and what the pages can do besides).
Unknown fields are ignored and values are coerced leniently, as for agents."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.http import fields as f
from server.http.holds import WhichHolds
from server.http.statements import Moment
from server.http.validation import (
    Currency,
    Cursor,
    Day,
    Name255,
    Reason,
    RequestModel,
    Text255,
    last_of_days,
    without_nul,
)
from server.limits import INT64_MAX, most
from server.payment_kinds import KINDS_WITHOUT_CODE, PROVIDER_KINDS

_MOST = 500  # rows of a page
_MOST_PROBLEMS = 100  # the function handles them one by one


def _not_zero(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("not_zero", "Input should not be 0")
    return value


_NoNul = AfterValidator(without_nul)
Anything = Annotated[str, _NoNul]
Note = Annotated[str, StringConstraints(max_length=most("description")), _NoNul]
Environment = Annotated[str, StringConstraints(pattern="^(test|live)$")]
KeyStatus = Annotated[str, StringConstraints(pattern="^(active|rotating|revoked)$")]
AccountStatus = Annotated[str, StringConstraints(pattern="^(active|suspended|closed)$")]
AccountSort = Annotated[str, StringConstraints(pattern="^(newest|oldest|email|credits|uses)$")]
AccountMatch = Annotated[str, StringConstraints(pattern="^(substring|prefix)$")]
PurchaseStatus = Annotated[str, StringConstraints(pattern="^(offered|pending|settled|returned)$")]
ProviderName = Annotated[
    str, StringConstraints(pattern=f"^({'|'.join((*PROVIDER_KINDS, *KINDS_WITHOUT_CODE))})$")
]
Role = Annotated[str, StringConstraints(pattern="^(admin|viewer)$")]
CapScope = Annotated[str, StringConstraints(pattern="^(all|api_key|account|agent)$")]
CapPeriod = Annotated[str, StringConstraints(pattern="^(minute|day|month)$")]
CapMode = Annotated[str, StringConstraints(pattern="^(hard|alert)$")]
CapSubject = Annotated[str, StringConstraints(max_length=2 * most("external_id") + 1), _NoNul]
How = Annotated[str, StringConstraints(pattern="^(credited|refunded|other)$")]
_Change = Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX), AfterValidator(_not_zero)]
_Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
_Positive = Annotated[int, Field(gt=0, le=INT64_MAX)]
_Priority = Annotated[int, Field(ge=0, le=100)]


class PageQuery(RequestModel):
    """Which page of a list."""

    page: Annotated[int, Field(ge=1, le=INT64_MAX // _MOST), f.PAGE] = 1
    page_size: Annotated[int, Field(ge=1, le=_MOST), f.PAGE_SIZE] = 50

    @property
    def offset(self) -> int:
        """How many rows come before the page."""
        return (self.page - 1) * self.page_size


class Days(TypedDict):
    """The days of a list as arguments of the function that lists."""

    from_: date | None
    to: date | None


class ListedDays(RequestModel):
    """The days that a list is limited to."""

    first_day: Annotated[Day | None, f.means("The first day, in UTC.")] = Field(
        default=None, alias="from"
    )
    last_day: Annotated[Day | None, f.means("The last day, in UTC.")] = Field(
        default=None, alias="to"
    )

    @field_validator("last_day")
    @classmethod
    def _in_order(cls, last: date | None, info: ValidationInfo) -> date | None:
        return last_of_days(info.data.get("first_day"), last)

    @property
    def days(self) -> Days:
        """The days as arguments of a function that lists."""
        return {"from_": self.first_day, "to": self.last_day}


class EventsQuery(ListedDays, PageQuery):
    """GET /admin/api/payment-events"""


class LedgerQuery(PageQuery):
    """GET /admin/api/users/{account_id}/transactions"""

    cursor: Annotated[Cursor | None, f.CURSOR] = None


class UsersQuery(ListedDays, PageQuery):
    """GET /admin/api/users; the days are those on which accounts were made"""

    status_filter: Annotated[Anything | None, f.STATUS_FILTER] = None
    search: Annotated[
        Anything | None,
        f.means(
            "Finds accounts by e-mail address or external id, whatever the case; or the"
            " account of this id."
        ),
    ] = None
    sort: Annotated[AccountSort, f.means("Which accounts come first.")] = "newest"
    match: Annotated[
        AccountMatch,
        f.means("Whether `search` finds what begins with it, which is quick, or contains it."),
    ] = "substring"


class UserPath(RequestModel):
    """/admin/api/users/{account_id}"""

    account_id: Annotated[UUID, f.ACCOUNT_ID]


class DenialQuery(RequestModel):
    """GET /admin/api/users/{account_id}/denial"""

    at: Annotated[
        Moment | None,
        f.means("The latest time to look at, in UTC where it names no zone; null for now."),
    ] = None


class TimelineQuery(ListedDays):
    """GET /admin/api/users/{account_id}/timeline"""

    kind: Annotated[
        Literal["check", "denial", "charge", "credit", "hold", "purchase", "staff"] | None,
        f.means("Only rows of this kind; `denial` also finds denied checks."),
    ] = None
    row_id: Annotated[
        UUID | None, f.means("The charge, credit, hold or purchase to begin with.")
    ] = None
    cursor: Annotated[
        Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{64}$")] | None,
        f.means("The `next_cursor` of the page before."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=_MOST), f.means("How many rows at most.")] = 50


class AdjustCreditsRequest(RequestModel):
    """POST /admin/api/users/{account_id}/credits"""

    amount_minor: Annotated[_Change, f.means("Credits to add; negative to take away. Not 0.")]
    reason: Annotated[Reason, f.means("Why, for the account's history and the audit log.")]
    expires_at: Annotated[Moment | None, f.CREDITS_EXPIRE_AT] = None
    priority: Annotated[_Priority | None, f.PRIORITY] = None
    source: Annotated[Literal["grant", "promotion"] | None, f.GRANT_SOURCE] = None


class LotsQuery(RequestModel):
    """GET /admin/api/users/{account_id}/lots"""

    all: Annotated[bool, f.means("Also credits of which nothing is left.")] = False
    pool: Annotated[
        bool, f.means("Also those of the usual kind, which takes a walk through all entries.")
    ] = True
    limit: Annotated[int, Field(ge=1, le=_MOST), f.PAGE_SIZE] = 200


class AllocationsQuery(RequestModel):
    """GET /admin/api/users/{account_id}/allocations"""

    before: Annotated[_Positive | None, f.means("Only charges before this entry.")] = None
    limit: Annotated[int, Field(ge=1, le=_MOST), f.means("How many charges at most.")] = 50


class UserHoldsQuery(WhichHolds):
    """GET /admin/api/users/{account_id}/holds"""

    limit: Annotated[int, Field(ge=1, le=_MOST), f.HOLDS_LIMIT] = 50


class SchedulesQuery(RequestModel):
    """GET /admin/api/users/{account_id}/grant-schedules"""

    all: Annotated[bool, f.means("Also schedules that ended.")] = False
    limit: Annotated[int, Field(ge=1, le=_MOST), f.PAGE_SIZE] = 50


class ChangeScheduleRequest(RequestModel):
    """POST /admin/api/grant-schedules/{schedule_id}/change"""

    reason: Annotated[Reason, f.AUDIT_REASON]
    amount: Annotated[_Positive | None, f.means("Credits each time; null: as it is.")] = None
    rollover: Annotated[
        bool | None,
        f.means("Whether what is left is kept when the next ones come; null: as it is."),
    ] = None
    description: Annotated[
        Name255 | None, f.means("What its credits are called; null: as it is.")
    ] = None


class GrantScheduleRequest(RequestModel):
    """POST /admin/api/users/{account_id}/grant-schedules"""

    amount: Annotated[_Positive, f.means("Credits each time.")]
    reason: Annotated[Reason, f.AUDIT_REASON]
    repeat: Annotated[
        Literal["once", "daily", "weekly", "monthly"], f.means("How often; once at `starts_at`.")
    ] = "monthly"
    day: Annotated[
        Annotated[int, Field(ge=1, le=31)] | None,
        f.means(
            "Of the month (31 is its last day), or of the week with 1 for Monday; 1 without it."
        ),
    ] = None
    rollover: Annotated[bool, f.means("Keep what is left when the next grant comes.")] = False
    lasts_days: Annotated[
        Annotated[int, Field(ge=1, le=3650)] | None,
        f.means("After how many days what is left ends."),
    ] = None
    starts_at: Annotated[Moment | None, f.means("No grant before this.")] = None
    ends_at: Annotated[Moment | None, f.means("No grant from then on.")] = None
    grants: Annotated[_Positive | None, f.means("How many grants at most.")] = None
    description: Annotated[
        Name255 | None, f.means("What the entries say; Monthly grant, for example, without it.")
    ] = None
    priority: Annotated[_Priority | None, f.PRIORITY] = None
    source: Annotated[Literal["grant", "promotion"] | None, f.GRANT_SOURCE] = None
    schedule_id: Annotated[UUID | None, f.means("The schedule to change; null for a new one.")] = (
        None
    )


class SchedulePath(RequestModel):
    """/admin/api/grant-schedules/{schedule_id}"""

    schedule_id: Annotated[UUID, f.means("The schedule.")]


class ReasonRequest(RequestModel):
    """A change that needs a reason and nothing else."""

    reason: Annotated[Reason, f.AUDIT_REASON]


class ResetFreeUsesRequest(RequestModel):
    """POST /admin/api/users/{account_id}/free-uses"""

    free_uses: Annotated[
        _Count | None, f.means("How many free uses to leave; null for what new accounts get.")
    ] = None
    reason: Annotated[Reason, f.AUDIT_REASON]


class UserChargePath(RequestModel):
    """/admin/api/charges/{charge_id}"""

    charge_id: Annotated[UUID, f.CHARGE_ID]


class UserCreditPath(RequestModel):
    """/admin/api/credits/{credit_id}"""

    credit_id: Annotated[UUID, f.CREDIT_ID]


class ReverseRequest(RequestModel):
    """POST /admin/api/charges/{charge_id}/reverse and /admin/api/credits/{credit_id}/reverse"""

    amount_minor: Annotated[
        _Positive | None, f.means("How much of it to reverse; null for all that is left of it.")
    ] = None
    reason: Annotated[Reason, f.means("Why, for the account's history and the audit log.")]
    dry_run: Annotated[bool, f.DRY_RUN] = False


class TransferRequest(RequestModel):
    """POST /admin/api/users/{account_id}/transfer"""

    to_account_id: Annotated[UUID, f.means("The account that takes the credits.")]
    amount_minor: Annotated[_Positive, f.means("How many paid credits to move.")]
    reason: Annotated[Reason, f.means("Why, for both accounts' histories and the audit log.")]
    dry_run: Annotated[bool, f.DRY_RUN] = False


class MergeRequest(RequestModel):
    """POST /admin/api/users/{account_id}/merge"""

    into_account_id: Annotated[UUID, f.means("The account that stays.")]
    reason: Annotated[Reason, f.means("Why, for both accounts' histories and the audit log.")]
    dry_run: Annotated[bool, f.DRY_RUN] = False


class UndoMergeRequest(RequestModel):
    """POST /admin/api/users/{account_id}/undo-merge"""

    reason: Annotated[Reason, f.means("Why, for both accounts' histories and the audit log.")]
    dry_run: Annotated[bool, f.DRY_RUN] = False


class SetStatusRequest(RequestModel):
    """PUT /admin/api/users/{account_id}/status"""

    status: Annotated[AccountStatus, f.means("The state the account shall be in.")]
    reason: Annotated[Reason, f.AUDIT_REASON]


class ErasePersonRequest(RequestModel):
    """POST /admin/api/users/{account_id}/erase"""

    reason: Annotated[
        Reason, f.means("Why, for the audit log. It stays, so it must not name the person.")
    ]
    dry_run: Annotated[bool, f.means("Say what would be erased, and change nothing.")] = False
    force: Annotated[
        bool, f.means("Give up paid credits that are left, and leave payment problems open.")
    ] = False


class WithdrawConsentRequest(RequestModel):
    """POST /admin/api/users/{account_id}/withdraw-consent"""

    reason: Annotated[Reason, f.AUDIT_REASON]
    undo: Annotated[bool, f.means("Let the next consent that an agent sends count again.")] = False


class EndTopUpRequest(RequestModel):
    """POST /admin/api/users/{account_id}/end-top-up"""

    reason: Annotated[Reason, f.AUDIT_REASON]


class KeysQuery(RequestModel):
    """GET /admin/api/api-keys"""

    environment: Annotated[Environment | None, f.ENVIRONMENT] = None
    status_filter: Annotated[KeyStatus | None, f.STATUS_FILTER] = None


class CreateKeyRequest(RequestModel):
    """POST /admin/api/api-keys"""

    name: Annotated[Name255, f.KEY_NAME]
    environment: Annotated[Environment, f.ENVIRONMENT] = "live"
    permissions: Annotated[list[Text255], f.PERMISSIONS] = Field(
        default=["billing:read", "billing:write"], max_length=most("permissions of a key")
    )
    expires_in_days: Annotated[
        Annotated[int, Field(ge=1, le=3650)] | None,
        f.means("How long the key works; null for ever."),
    ] = None
    description: Annotated[Note | None, f.PURPOSE] = None
    reason: Annotated[Reason | None, f.AUDIT_REASON] = None


class ReasonQuery(RequestModel):
    """Why a key is rotated or revoked. Old dashboards send no reason."""

    reason: Annotated[Reason | None, f.AUDIT_REASON] = None


class KeyPath(RequestModel):
    """/admin/api/api-keys/{api_key_id}"""

    api_key_id: Annotated[UUID, f.means("The API key.")]


class CapsQuery(PageQuery):
    """GET /admin/api/caps"""

    scope: Annotated[CapScope | None, f.means("Only caps of this scope.")] = None
    account_id: Annotated[UUID | None, f.means("Only the caps of this account.")] = None


class SetCapRequest(RequestModel):
    """PUT /admin/api/caps"""

    scope: Annotated[CapScope, f.CAP_SCOPE]
    subject: Annotated[
        CapSubject | None,
        f.means(
            "Whose cap it is: the key's id or first 20 characters; the account's id,"
            " `provider:external id` or e-mail address; the agent's id; left out for `all`."
        ),
    ] = None
    period: Annotated[CapPeriod, f.CAP_PERIOD]
    mode: Annotated[CapMode, f.CAP_MODE] = "hard"
    limit: Annotated[_Count, f.CAP_LIMIT]
    reason: Annotated[Reason, f.AUDIT_REASON]


class CapPath(RequestModel):
    """/admin/api/caps/{cap_id}"""

    cap_id: Annotated[UUID, f.means("The cap.")]


class DeleteCapQuery(RequestModel):
    """DELETE /admin/api/caps/{cap_id}"""

    reason: Annotated[Reason, f.AUDIT_REASON]


class DailyQuery(RequestModel):
    """GET /admin/api/analytics/daily"""

    days: Annotated[
        int,
        Field(ge=1, le=365),
        f.means("How many days before today; the answer has one row more, for today."),
    ] = 30


class ProviderPath(RequestModel):
    """/admin/api/config/providers/{provider}"""

    provider: Annotated[ProviderName, f.PROVIDER]


class SetProviderRequest(RequestModel):
    """PUT /admin/api/config/providers/{provider}"""

    is_enabled: Annotated[
        bool | None,
        f.means("Whether to use it; null keeps, and is true for a provider that is new."),
    ] = None
    config_data: Annotated[
        dict[Text255, Anything | list[Anything] | None] | None,
        f.means(
            "The provider's settings by name: for Stripe `api_key`, `webhook_secret` and"
            " `publishable_key`. It replaces all there are, but a value that is masked or"
            " blank keeps what is stored. `webhook_secret` may be a list, or a text with"
            " commas: these are then all there are, and a mask among them keeps the secret it"
            " stands for. Null keeps everything."
        ),
    ] = None
    reason: Annotated[Reason | None, f.AUDIT_REASON] = None


class SetPricingRequest(RequestModel):
    """PUT /admin/api/config/pricing"""

    free_uses: Annotated[_Count | None, f.means("Free uses of a new account; null keeps.")] = None
    pack_uses: Annotated[_Positive | None, f.means("How many uses a pack has; null keeps.")] = None
    pack_price_minor: Annotated[
        _Positive | None, f.means("What a pack costs, in minor units such as cents; null keeps.")
    ] = None
    pack_currency: Annotated[Currency | None, f.means("Three letters; null keeps.")] = None
    reason: Annotated[Reason, f.AUDIT_REASON]


class PurchasesQuery(ListedDays, PageQuery):
    """GET /admin/api/purchases"""

    account_id: Annotated[UUID | None, f.means("Only those of this account.")] = None
    status_filter: Annotated[
        PurchaseStatus | None,
        f.means("Only those in this state; `returned`: money of it went back."),
    ] = None
    days_of: Annotated[
        Literal["offered", "paid"],
        f.means("Whether the days are those of the offer, or of the payment."),
    ] = "offered"


class ProblemsQuery(PageQuery):
    """GET /admin/api/payment-problems"""

    page_size: Annotated[int, Field(ge=1, le=_MOST_PROBLEMS), f.PAGE_SIZE] = 50


class EventPath(RequestModel):
    """/admin/api/payment-events/{event_id}"""

    event_id: Annotated[Name255, f.EVENT_ID]


class ReturnPath(RequestModel):
    """/admin/api/payment-returns/{return_id}"""

    return_id: Annotated[Name255, f.RETURN_ID]


class WarningPath(RequestModel):
    """/admin/api/payment-warnings/{warning_id}"""

    warning_id: Annotated[Name255, f.WARNING_ID]


class PaymentPath(RequestModel):
    """/admin/api/payments/{payment_id}"""

    payment_id: Annotated[Name255, f.PAYMENT_ID]


class RefundRequest(RequestModel):
    """POST /admin/api/payments/{payment_id}/refund"""

    amount_minor: Annotated[
        _Positive | None,
        f.means("How much money, in minor units such as cents; null for all that is left."),
    ] = None
    reason: Annotated[Reason, f.means("Why, for the audit log.")]
    dry_run: Annotated[bool, f.DRY_RUN] = False


class ResolveRequest(RequestModel):
    """POST .../{return_id}/resolve, .../{warning_id}/resolve, .../{payment_id}/reopen"""

    reason: Annotated[Reason, f.HOW_RESOLVED]


class ResolveEventRequest(ResolveRequest):
    """POST .../{event_id}/resolve"""

    how: Annotated[How | None, f.HOW] = None
    credit_id: Annotated[UUID | None, f.CREDIT_ID] = None


class ResolvePaymentRequest(ResolveRequest):
    """POST .../{payment_id}/resolve"""

    how: Annotated[How, f.HOW]
    credit_id: Annotated[UUID | None, f.CREDIT_ID] = None
    amount_minor: Annotated[
        _Positive | None, f.means("What was paid, in minor units such as cents.")
    ] = None
    currency: Annotated[Currency | None, f.PRICE_CURRENCY] = None


class StaffPath(RequestModel):
    """/admin/api/staff/{email}"""

    email: Annotated[Name255, f.EMAIL]


class AddStaffRequest(RequestModel):
    """POST /admin/api/staff"""

    email: Annotated[Name255, f.means("An address of the staff's domain.")]
    name: Annotated[
        Name255 | None, f.means("The full name; by default the address's first part.")
    ] = None
    role: Annotated[Role, f.ROLE] = "viewer"
    reason: Annotated[Reason | None, f.AUDIT_REASON] = None


class ChangeStaffRequest(RequestModel):
    """PUT /admin/api/staff/{email}"""

    role: Annotated[
        Role | None, f.means("`admin` may change things, `viewer` may look; null keeps.")
    ] = None
    is_active: Annotated[
        bool | None,
        f.means("Whether they may sign in; null keeps. Whoever may not is out at once."),
    ] = None
    reason: Annotated[Reason, f.AUDIT_REASON]


def _of_period(value: date) -> date:
    """A day whose month after it has a name in Python, too."""
    if not 2 <= value.year <= 9998:
        raise PydanticCustomError("day_range", "Input should be a day of the years 2 to 9998")
    return value


_PeriodDay = Annotated[Day, AfterValidator(_of_period)]


class DaysQuery(RequestModel):
    """A period of UTC days."""

    first: Annotated[_PeriodDay | None, f.means("The first day, in UTC.")] = Field(
        default=None, alias="from"
    )
    beyond: Annotated[_PeriodDay | None, f.means("The day after the last, in UTC.")] = Field(
        default=None, alias="to"
    )


class TopQuery(DaysQuery):
    """GET /admin/api/analytics/top-consumers"""

    sort: Annotated[
        Annotated[str, StringConstraints(pattern="^(uses|credits)$")],
        f.means("By `uses`, or by paid `credits` used."),
    ] = "uses"
    limit: Annotated[int, Field(ge=1, le=1000), f.means("How many accounts at most.")] = 20


class AuditQuery(ListedDays, PageQuery):
    """GET /admin/api/audit-log"""

    who: Annotated[Anything | None, f.WHO_WANTED] = None
    action: Annotated[Anything | None, f.ACTION] = None
    resource_id: Annotated[Anything | None, f.RESOURCE_ID] = None


class LoginQuery(RequestModel):
    """GET /admin/oauth/login, for the API's description only"""

    redirect_uri: Annotated[str, f.means("The page of the console to come back to.")] = "/admin"


class CallbackQuery(RequestModel):
    """GET /admin/oauth/callback, for the API's description only"""

    code: Annotated[str, f.means("What the identity provider gave the browser.")]
    state: Annotated[str, f.means("What the identity provider was given to hand back.")]
