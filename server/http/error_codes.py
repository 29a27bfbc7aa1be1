"""Every `code` of an error body: its status, its wording, and what a caller can do about it. The
wording of the database's refusals comes from billing.errors (sql/errors.sql). Errors that are found
before the database is called have their wording here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import Field
from typing_extensions import TypedDict

from server.http import fields as f
from server.resources import resource_folder


class Error(TypedDict):
    """An error."""

    detail: Annotated[str, f.DETAIL]
    code: Annotated[str, f.CODE]
    request_id: Annotated[str, f.REQUEST_ID]
    hint: NotRequired[Annotated[str, f.HINT]]


class InsufficientCredits(Error):
    """The account cannot pay."""

    balance: Annotated[f.Count, f.means("Paid credits the account has.")]
    required: Annotated[f.Positive, f.means("Credits the charge asked for.")]
    shortfall: Annotated[f.Positive, f.means("Credits missing.")]
    retryable: Annotated[
        Literal[False], f.means("False: sending it again without more credits ends the same.")
    ]
    purchase_url: NotRequired[Annotated[f.Url, f.PURCHASE_URL]]


class ReachedCap(TypedDict):
    """The cap that refused: how many credits may be charged in a period."""

    cap_id: Annotated[UUID, f.means("The cap; staff know it by this id.")]
    scope: Annotated[Literal["account", "api_key", "agent", "all"], f.CAP_SCOPE]
    period: Annotated[Literal["minute", "day", "month"], f.CAP_PERIOD]
    limit: Annotated[f.Count, f.CAP_LIMIT]
    used: Annotated[f.Count, f.CAP_USED]
    resets_at: Annotated[datetime, f.CAP_RESETS_AT]


class CapReached(Error):
    """A cap refused the charge."""

    cap: Annotated[
        ReachedCap, f.means("The cap that refused. Where several did, the one that frees last.")
    ]
    required: Annotated[f.Positive, f.means("Credits the charge asked for.")]
    retryable: Annotated[
        bool,
        f.means(
            "Whether the same charge can pass once the cap is free. False where it asks for more"
            " than the whole cap."
        ),
    ]


class ValidationFault(TypedDict):
    """One fault in what was sent."""

    type: Annotated[str, f.means("The kind of fault, for programs.")]
    loc: Annotated[list[str | int], f.means("Where: header, path, query or body, then the field.")]
    msg: Annotated[str, f.means("The fault as a sentence.")]
    input: Annotated[Any, f.means("What was sent there.")]
    ctx: NotRequired[
        Annotated[dict[str, Any], f.means("The bound or the reason, where there is one.")]
    ]


class ValidationError(TypedDict):
    """Something sent has the wrong shape."""

    detail: Annotated[
        list[ValidationFault], Field(min_length=1), f.means("What is wrong, an entry per fault.")
    ]
    code: Annotated[str, f.CODE]
    request_id: Annotated[str, f.REQUEST_ID]
    hint: NotRequired[Annotated[str, f.HINT]]


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One value of `code`. `detail` is the wording with unfilled {placeholders}. `meaning` says
    what a caller can do."""

    status: int
    detail: str
    meaning: str


def _catalogue() -> dict[str, tuple[int, str]]:
    """Status and wording of each row of billing.errors, by slug."""
    rows = re.findall(
        r"^    \('(\w+)', (\d+),\s*'((?:[^']|'')*)'",
        (resource_folder("sql") / "errors.sql").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {slug: (int(status), message.replace("''", "'")) for slug, status, message in rows}


# For errors that billing.errors words, only the meaning is here.
_CODES: Mapping[str, str | ErrorCode] = {
    "delivery_not_found": "Nothing was sent under this id, or it is not kept any more.",
    "webhook_endpoint_in_use": "Switch the endpoint off first.",
    "webhook_endpoint_not_found": "No endpoint has this id.",
    "webhook_endpoint_off": "Try the endpoint and switch it on first.",
    "webhook_not_tried": "Try the endpoint: it must accept a test event at this address.",
    "charge_currency_mismatch": "Charge in the account's currency.",
    "credit_currency_mismatch": "Credit in the account's currency.",
    "api_key_format": ErrorCode(
        401,
        "Authentication failed: Invalid API key format",
        "What X-API-Key carries is no key of this service: keys begin with `cbk_`.",
    ),
    "api_key_invalid": "No such key, or it was revoked.",
    "api_key_expired": ("The key is past its date. It is told so once; after that it is invalid."),
    "insufficient_credits": (
        "No free use is left and the paid credits do not suffice. Nothing was charged: stop"
        " working for this user until credits are bought."
    ),
    "account_cap_reached": (
        "The account's own budget for this minute, day or month is used up. Nothing was charged:"
        " stop working for this user until `cap.resets_at`, or until staff raise the cap."
    ),
    "cap_reached": (
        "The API key, the agent, or all together charged as much as they may in this minute, day"
        " or month. Nothing was charged: wait Retry-After seconds, then send the same again; slow"
        " down, or ask staff to raise the cap."
    ),
    "cap_not_found": "There is no such cap.",
    "permission_missing": "Use a key that has the permission.",
    "account_suspended": (
        "Staff stopped the account. It is not charged and can still be credited."
    ),
    "account_closed": "The account is not charged any more; it can still be credited.",
    "account_not_found": (
        "The user is not known yet: a check, or creating the account, makes it known."
    ),
    "not_found": ErrorCode(
        404,
        "Not Found",
        "Nothing is served at this path.",
    ),
    "method_not_allowed": ErrorCode(
        405,
        "Method Not Allowed",
        "The path takes other methods: the Allow header names them.",
    ),
    "charge_already_exists": (
        "The body's idempotency key was used for this account. Nothing was charged a second"
        " time: take it as a success. X-Existing-Charge-ID and `charge` tell what the key"
        " made."
    ),
    "credit_already_exists": (
        "The body's idempotency key was used for this account. Nothing was added a second"
        " time: take it as a success. X-Existing-Credit-ID and `credit` tell what the key"
        " made."
    ),
    "hold_already_exists": (
        "The body's idempotency key was used for this account. Nothing was held a second time:"
        " X-Existing-Hold-ID and `hold` tell what the key made."
    ),
    "grant_schedule_not_found": "There is no such regular grant.",
    "grant_schedule_over": "The regular grant has ended, so it cannot be changed.",
    "hold_not_found": "There is no such hold, or another API key made it.",
    "hold_settled": (
        "It was captured or released before by another request; a hold is settled once. `hold`"
        " tells how."
    ),
    "hold_expired": (
        "Its time is over, and its credits were used for something else. Capture what is left, or"
        " charge later; a hold that is needed longer is extended in time."
    ),
    "capture_exceeds_hold": (
        "Capture at most what is held, or say `overage: available` to take what else is there."
    ),
    "already_reversed": "Nothing of it is left to give back: take it as a success.",
    "charge_not_found": "There is no such charge, or another API key made it.",
    "correction_not_reversible": "Correct the account by a new entry.",
    "credit_not_found": "There is no such credit.",
    "credit_of_payment": "Refund the payment: that takes its credits back by itself.",
    "entry_of_old_service": "Correct the account by a new entry.",
    "free_use_is_whole": "Leave the amount out.",
    "reversal_exists": ErrorCode(
        409,
        "Idempotency key was used with a different request",
        "The body's idempotency key was used for something else on this account. Nothing was"
        " given back: use a new one.",
    ),
    "reversal_too_great": "Ask for no more than is left of it, or leave the amount out.",
    "top_up_card_missing": (
        "No payment is named whose card was saved. Buy with `save_card`, have the user pay, and"
        " give that purchase's `payment_id`."
    ),
    "top_up_not_found": "Nobody has agreed to a top-up of this account yet.",
    "top_up_price_changed": (
        "`amount_minor` and `currency` are not what a top-up costs now. Show the user the present"
        " price, and ask for the consent again."
    ),
    "payment_not_found": (
        "The payment provider does not know it, or it is not for a purchase of this service."
    ),
    "payment_not_settled": "Nothing was paid yet, so nothing can go back.",
    "payment_refunded": "All of it went back or was asked back: take it as a success.",
    "refund_refused": ErrorCode(
        409,
        "The payment provider refunded nothing: {problem}",
        "The payment provider gives nothing back for this payment. `detail` says why.",
    ),
    "refund_too_great": "Ask for no more than is left of it, or leave the amount out.",
    "payment_provider_not_configured": (
        "Nothing can be bought until the operator has set up the payment provider."
    ),
    "payment_provider_unavailable": ErrorCode(
        503,
        "Payment provider unavailable",
        "The payment provider did not do what it was asked: try again later. A purchase sent"
        " again with the same Idempotency-Key is the same purchase.",
    ),
    "webhook_failed": ErrorCode(
        500,
        "Webhook processing failed",
        "The event could not be dealt with: it must be sent again, as Stripe does.",
    ),
    "webhook_metadata_missing": ErrorCode(
        400,
        "Missing account metadata in webhook",
        "The payment does not say whom it is for; staff are told.",
    ),
    "webhook_signature_invalid": ErrorCode(
        401,
        "Invalid webhook signature",
        "The body is not signed with one of the webhook secrets, or was signed more than 300"
        " seconds ago, or is no event. The service's log says which.",
    ),
    "unsupported_content_encoding": ErrorCode(
        415,
        "Unsupported Content-Encoding: send the body as it is",
        "The body is compressed; nothing is unpacked here.",
    ),
    "malformed_request": ErrorCode(
        400,
        "Malformed HTTP request",
        "It is not HTTP as the server can read it.",
    ),
    "body_too_large": ErrorCode(
        413,
        "Request body too large: at most {limit} bytes are accepted",
        "Send less in one request.",
    ),
    "validation_error": ErrorCode(
        422,
        "a list, one entry per fault",
        "Something has the wrong shape; `detail` says where and why.",
    ),
    "idempotency_key_reused": (
        "The key of the Idempotency-Key header stands for another request: use a new one."
    ),
    "balance_overflow": "Add fewer credits.",
    "account_has_holds": "Wait until its holds are settled or over, or release them.",
    "account_merged": "Name the account that it was merged into, or undo that merge first.",
    "account_not_active": "Its credits stay with it. Make it active first, if that is right.",
    "account_not_merged": "There is nothing to undo.",
    "accounts_are_one": "Name two different accounts.",
    "accounts_of_other_currency": "Credits are not moved between currencies.",
    "merge_stands": "`detail` says what changed since. Move credits by a transfer instead.",
    "internal_error": ErrorCode(
        500,
        "Internal Server Error",
        "A fault of the service: tell its operator the `request_id`.",
    ),
    "unavailable": ErrorCode(
        503,
        "Service temporarily unavailable, please retry",
        "Send the same again after Retry-After seconds. Whether the request took effect may"
        " be unknown, so a charge should carry an idempotency key. The wording varies with"
        " the cause.",
    ),
    "api_key_unknown": ErrorCode(
        400,
        "API key not found: {api_key_id}",
        "There is no such key to rotate.",
    ),
    "invalid_redirect": ErrorCode(
        400,
        "redirect_uri must be a page of this console",
        "Signing in leads to pages of the console only.",
    ),
    "sign_in_failed": ErrorCode(
        400,
        "OAuth authentication failed: {reason}",
        "The person was not signed in; the reason says why. Begin anew at `/admin/sign-in`.",
    ),
    "not_authenticated": ErrorCode(
        401,
        "Not authenticated",
        "There is no staff token and no session, or it is not good (any more): the wording varies.",
    ),
    "admin_deactivated": ErrorCode(
        403,
        "User account is deactivated",
        "An administrator can make the account active again.",
    ),
    "admin_role_required": "Viewers change nothing: ask an administrator.",
    "cross_origin": ErrorCode(
        403,
        "Calls with a browser session must come from our own pages",
        "Programs send a token in the Authorization header instead of the cookie.",
    ),
    "not_authorized": ErrorCode(
        403,
        "User not authorized",
        "The token's owner is not a member of staff (any more).",
    ),
    "admin_not_found": "Nobody of this address is a member of staff.",
    "api_key_not_found": "There is no such key.",
    "payment_event_not_found": "There is no such event, or it needs nobody's attention.",
    "payment_return_not_found": (
        "There is no such refund or dispute, or all its credits were taken back."
    ),
    "payment_warning_not_found": "There is no such warning, or it was closed.",
    "user_not_found": ErrorCode(
        404,
        "User {account_id} not found",
        "There is no account of this id.",
    ),
    "account_erased": "The account stays closed: nothing is given, taken or moved there.",
    "account_in_use": (
        "Spend, return or settle what is left first, or say `force`: credits are then given up."
    ),
    "credit_not_usable": (
        "Name the credit that was given for this payment, or resolve it as `other`."
    ),
    "payment_already_credited": (
        "One payment has one credit: leave its id out of a credit that is for something else."
    ),
    "payment_not_resolved": "No person has resolved it, or money of it went back since then.",
    "payment_of_another_account": (
        "The payment was sold to another account than the one to be credited."
    ),
    "api_key_not_active": (
        "Only an active key can be rotated: rotate its successor, or create a new key."
    ),
    "last_admin": "Make somebody else an administrator first.",
    "invalid_argument": "What was sent cannot be; `detail` says why.",
    "too_many_attempts": ErrorCode(
        429,
        "Too many sign-in attempts, please wait",
        "Somebody at this address tries to sign in too often.",
    ),
    "sign_in_unavailable": ErrorCode(
        500,
        "Failed to initiate OAuth login",
        "The identity provider does not answer. The wording varies.",
    ),
    "console_closed": ErrorCode(
        503,
        "The staff console is not set up",
        "The operator has not set ADMIN_JWT_SECRET.",
    ),
    "sign_in_not_configured": ErrorCode(
        503,
        "Signing in is not set up: the operator must set ADMIN_JWT_SECRET, GOOGLE_CLIENT_ID,"
        " GOOGLE_CLIENT_SECRET and PUBLIC_BASE_URL",
        "People cannot sign in here; programs can use a token.",
    ),
}


def _error_codes() -> Mapping[str, ErrorCode]:
    catalogue = _catalogue()
    return {
        code: known if isinstance(known, ErrorCode) else ErrorCode(*catalogue[code], known)
        for code, known in _CODES.items()
    }


ERROR_CODES = _error_codes()

_HEADERS_BY_STATUS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
# The additional header of an error, by its code.
ERROR_HEADERS: Mapping[str, str] = {
    code: _HEADERS_BY_STATUS[error.status]
    for code, error in ERROR_CODES.items()
    if error.status in _HEADERS_BY_STATUS and code != "webhook_signature_invalid"
} | {
    "charge_already_exists": "X-Existing-Charge-ID",
    "credit_already_exists": "X-Existing-Credit-ID",
    "hold_already_exists": "X-Existing-Hold-ID",
    "sign_in_failed": "Cache-Control",
}
