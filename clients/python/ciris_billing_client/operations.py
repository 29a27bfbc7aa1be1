"""Every call of the service, as a function that says what is sent and how the answer is read. The
clients have a method for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import msgspec

from ciris_billing_client import models as m
from ciris_billing_client.errors import ApiError
from ciris_billing_client.exchange import Operation, Reply, answer, refusal

T = TypeVar("T")
_API = "/v1/billing"
_HOLDS = f"{_API}/holds"
_USE = "One use"
_LONGEST_KEY = 255
_CAPTURED = 200  # the status of a capture in a batch; that of a charge is 201


class NewCharge(m.Request, frozen=True, kw_only=True):
    """A charge of a batch. With an `idempotency_key` of its own it is made once, whichever batch it
    comes in."""

    user: m.User
    amount: int = 1
    description: str = _USE
    currency: str = "USD"
    metadata: m.Metadata | None = None
    profile: m.Profile | None = None
    idempotency_key: str | None = None


class Capture(m.Request, frozen=True, kw_only=True):
    """A capture of a hold in a batch."""

    hold_id: UUID | str
    amount: int | None = None
    overage: m.Overage = "refuse"


class BatchResult(m.Answer, frozen=True, kw_only=True):
    """What came of one entry of a batch: the charge, the hold that was captured, or the error that
    it would have had alone."""

    index: int
    status: int
    outcome: m.Charge | m.Hold | ApiError


class Batch(m.Answer, frozen=True, kw_only=True):
    """What came of a batch, in the order in which it was sent."""

    results: tuple[BatchResult, ...]
    created_count: int
    total_count: int
    replayed: bool


def check(
    user: m.User,
    *,
    hold: m.NewHold | None = None,
    profile: m.Profile | None = None,
    context: m.Context | None = None,
) -> Operation[m.CreditCheck]:
    """May this user go on? No is an answer, not an error: read `has_credit` and `reason`. A user
    who is not known yet gets an account with free uses. With `hold`, credits are kept in the same
    call, and yes means that they are: capture or release `hold.hold_id` of the answer."""
    body = {**_identity(user, profile), **_given(context=context)}
    if hold is not None:
        body["hold"] = {
            "amount_minor": hold.amount,
            "idempotency_key": _key(hold.idempotency_key),
            **_given(expires_in_seconds=hold.expires_in_seconds, description=hold.description),
        }
    # A repeated check leaves a second audit row and changes nothing else.
    return Operation("POST", f"{_API}/credits/check", _CHECK, body, is_harmless=True)


def charge(
    user: m.User,
    amount: int = 1,
    *,
    description: str = _USE,
    currency: str = "USD",
    metadata: m.Metadata | None = None,
    profile: m.Profile | None = None,
    idempotency_key: str | None = None,
) -> Operation[m.Charge]:
    """This user used one. Raises InsufficientCredits. The same `idempotency_key` again is charged
    once and gets the first answer, with `replayed`; by default each call makes a key."""
    new = NewCharge(
        user=user,
        amount=amount,
        description=description,
        currency=currency,
        metadata=metadata,
        profile=profile,
    )
    return _write(f"{_API}/charges", _CHARGE, _charge_body(new), idempotency_key)


def batch(
    entries: Sequence[NewCharge | Capture], *, idempotency_key: str | None = None
) -> Operation[Batch]:
    """Up to 1,000 charges and captures in one request; captures come first. Each is decided by
    itself; a refusal is a value. The key stands for the whole list."""
    body = {"charges": [_entry_body(entry) for entry in entries]}
    return _write(f"{_API}/charges:batch", _read_batch, body, idempotency_key)


def reverse(
    charge_id: UUID | str,
    reason: str,
    *,
    amount: int | None = None,
    idempotency_key: str | None = None,
) -> Operation[m.Reversal]:
    """Gives a charge back, whole or in part, as when a job failed. Raises Conflict with the code
    `already_reversed` when nothing of it is left, which is success too."""
    body = {"reason": reason, **_given(amount_minor=amount)}
    path = f"{_API}/charges/{_segment(charge_id)}/reverse"
    return _write(path, _REVERSAL, body, idempotency_key)


def hold(
    user: m.User,
    amount: int,
    *,
    expires_in_seconds: int | None = None,
    description: str = _USE,
    currency: str | None = None,
    metadata: m.Metadata | None = None,
    idempotency_key: str | None = None,
) -> Operation[m.Hold]:
    """Keeps credits, or a free use, for work whose cost is known afterwards: nothing else can take
    them until the hold is captured, released or expires (by default after 900 seconds). Raises
    InsufficientCredits."""
    body = _hold_body(
        user,
        amount,
        expires_in_seconds=expires_in_seconds,
        description=description,
        currency=currency,
        metadata=metadata,
    )
    return _write(_HOLDS, _HOLD, body, idempotency_key)


def try_hold(user: m.User, amount: int, *, currency: str | None = None) -> Operation[m.TriedHold]:
    """What a hold would be, or would be refused for. Nothing is kept."""
    body = _hold_body(user, amount, currency=currency, dry_run=True)
    return Operation("POST", _HOLDS, _TRIED_HOLD, body, is_harmless=True)


def use(
    user: m.User,
    up_to: int,
    *,
    expires_in_seconds: int | None = None,
    description: str = _USE,
    metadata: m.Metadata | None = None,
    idempotency_key: str | None = None,
) -> Operation[m.Hold]:
    """A block that holds up to so many credits for a piece of work. Inside, `use.settle(3)` says
    what it cost; that is taken when the block ends. A block that does not settle, or that an error
    leaves before it settled, gives everything back. If the process dies, the hold expires (after
    900 seconds by default). Entering raises InsufficientCredits."""
    return hold(
        user,
        up_to,
        expires_in_seconds=expires_in_seconds,
        description=description,
        metadata=metadata,
        idempotency_key=idempotency_key,
    )


def capture(
    hold_id: UUID | str, amount: int | None = None, *, overage: m.Overage = "refuse"
) -> Operation[m.Hold]:
    """Takes what the work cost from a hold, by default all of it; the rest is free again. More than
    is held is refused, or with `overage="available"` taken as far as the user has it."""
    return _settle(hold_id, "capture", amount_minor=amount, overage=overage)


def release(hold_id: UUID | str, reason: str | None = None) -> Operation[m.Hold]:
    """Gives a whole hold back."""
    return _settle(hold_id, "release", reason=reason)


def extend(hold_id: UUID | str, expires_in_seconds: int) -> Operation[m.Hold]:
    """Lets an open hold last for that many seconds from now, if that is longer."""
    return _settle(hold_id, "extend", expires_in_seconds=expires_in_seconds)


def get_hold(hold_id: UUID | str) -> Operation[m.Hold]:
    """Reads a hold of this API key."""
    return _get(f"{_HOLDS}/{_segment(hold_id)}", _HOLD)


def list_holds(
    user: m.User,
    *,
    status: m.HoldStatus | None = None,
    limit: int = 50,
    after: UUID | str | None = None,
) -> Operation[m.HoldPage]:
    """The holds that this API key made for the user, newest first. After a crash, the open ones
    still wait to be settled. `after` is the last hold of the page before."""
    after = None if after is None else str(after)
    path = f"{_account_path(user)}/holds"
    return _get(path, _HOLD_PAGE, status=status, limit=str(limit), after=after)


def add_credits(
    user: m.User,
    amount: int,
    *,
    description: str,
    transaction_type: m.TransactionType = "grant",
    currency: str = "USD",
    expires_at: datetime | None = None,
    effective_at: datetime | None = None,
    priority: int | None = None,
    source: m.CreditSource | None = None,
    profile: m.Profile | None = None,
    external_transaction_id: str | None = None,
    idempotency_key: str | None = None,
) -> Operation[m.Credit]:
    """Adds paid credits to an account. They may end at a time, come at a time, and be spent before
    others: those of lower priority first (0 to 100, 50 without it)."""
    body = {
        **_identity(user, profile),
        "amount_minor": amount,
        "description": description,
        "transaction_type": transaction_type,
        "currency": currency,
        **_given(
            external_transaction_id=external_transaction_id,
            expires_at=expires_at,
            effective_at=effective_at,
            priority=priority,
            source=source,
        ),
    }
    return _write(f"{_API}/credits", _CREDIT, body, idempotency_key)


def create_account(
    user: m.User,
    *,
    profile: m.Profile | None = None,
    currency: str = "USD",
    idempotency_key: str | None = None,
) -> Operation[m.Account]:
    """Finds the user's account, or creates it."""
    body = {**_identity(user, profile), "currency": currency}
    return _write(f"{_API}/accounts", _ACCOUNT, body, idempotency_key)


def account(user: m.User) -> Operation[m.Account]:
    """Reads the user's account."""
    return _get(_account_path(user), _ACCOUNT)


def balance(user: m.User, *, at: datetime | None = None) -> Operation[m.Balance]:
    """What the user had at a time; by default, everything that is written by now counts."""
    # This machine's clock may be behind the service's.
    moment = at or datetime.now(UTC) + timedelta(days=1)
    return _get(f"{_account_path(user)}/balance", _BALANCE, at=_time(moment))


def statement(
    user: m.User, *, start: datetime | None = None, end: datetime | None = None
) -> Operation[m.Statement]:
    """Opening, every entry and closing of a period, `end` not included; by default this month."""
    period = {"from": _time(start) if start else None, "to": _time(end) if end else None}
    return _get(f"{_account_path(user)}/statement", _STATEMENT, **period)


def history_page(
    user: m.User, *, limit: int = 50, cursor: str | None = None
) -> Operation[m.TransactionPage]:
    """A page of the user's history, newest first; `cursor` is the page before's `next_cursor`."""
    who = m.User(*user)._asdict()
    return _get(f"{_API}/transactions", _HISTORY, **who, limit=str(limit), cursor=cursor)


def purchase(
    user: m.User,
    customer_email: str,
    *,
    save_card: bool = False,
    profile: m.Profile | None = None,
    idempotency_key: str | None = None,
) -> Operation[m.Payment]:
    """Sells the user a pack of uses. Give `client_secret` and `publishable_key` to Stripe's script
    in the user's client. `save_card` keeps the card for top-ups, to which the user has agreed."""
    body = {
        **_identity(user, profile),
        "customer_email": customer_email,
        **_given(save_card=save_card or None),
    }
    return _write(f"{_API}/purchases", _PAYMENT, body, idempotency_key)


def payment(payment_id: str) -> Operation[m.Payment]:
    """Reads a payment. The user may go on once `credits_added` is not 0."""
    return _get(f"{_API}/purchases/{_segment(payment_id)}", _PAYMENT)


def set_top_up(
    user: m.User,
    *,
    threshold: int,
    amount_minor: int,
    currency: str,
    monthly_cap_minor: int,
    consent_version: str,
    consent_text: str,
    packs: int = 1,
    payment_id: str | None = None,
) -> Operation[m.TopUp]:
    """Records that the user agreed, to these words, to have a saved card charged `amount_minor` for
    `packs` packs when `threshold` paid credits or fewer are left. Call it only when they did.
    `payment_id` is a paid purchase with `save_card`, whose card is charged; without it the card of
    the top-up before is. It replaces what was agreed to before."""
    body = {
        "threshold": threshold,
        "packs": packs,
        "amount_minor": amount_minor,
        "currency": currency,
        "monthly_cap_minor": monthly_cap_minor,
        "consent": {"agreed": True, "version": consent_version, "text": consent_text},
        **_given(payment_id=payment_id),
    }
    # The same consent again changes nothing.
    return Operation("PUT", _top_up_path(user), _TOP_UP, body, is_harmless=True)


def get_top_up(user: m.User) -> Operation[m.TopUp]:
    """Reads what the user agreed to last, and how it goes. Raises NotFound with the code
    `top_up_not_found` where they never agreed."""
    return _get(_top_up_path(user), _TOP_UP)


def end_top_up(user: m.User) -> Operation[m.TopUp]:
    """Withdraws the user's consent: the card is not charged from this moment on."""
    return Operation("DELETE", _top_up_path(user), _TOP_UP, is_harmless=True)


_ACCOUNT = answer(m.Account)
_BALANCE = answer(m.Balance)
_CHARGE = answer(m.Charge)
_CHECK = answer(m.CreditCheck)
_CREDIT = answer(m.Credit)
_HOLD = answer(m.Hold)
_TRIED_HOLD = answer(m.TriedHold)
_HOLD_PAGE = answer(m.HoldPage)
_HISTORY = answer(m.TransactionPage)
_PAYMENT = answer(m.Payment)
_REVERSAL = answer(m.Reversal)
_STATEMENT = answer(m.Statement)
_TOP_UP = answer(m.TopUp)


class _RawResult(m.Answer, frozen=True, kw_only=True):
    index: int
    status: int
    body: msgspec.Raw


class _RawBatch(m.Answer, frozen=True, kw_only=True):
    results: list[_RawResult]
    created_count: int
    total_count: int


_RAW_BATCH = answer(_RawBatch)


def _read_batch(reply: Reply) -> Batch:
    raw = _RAW_BATCH(reply)
    return Batch(
        results=tuple(
            BatchResult(index=one.index, status=one.status, outcome=_outcome(one))
            for one in raw.results
        ),
        created_count=raw.created_count,
        total_count=raw.total_count,
        replayed=reply.headers.get("idempotent-replayed") == "true",
    )


def _outcome(one: _RawResult) -> m.Charge | m.Hold | ApiError:
    content = bytes(one.body)
    if one.status >= 300:
        return refusal(one.status, content)
    reply = Reply(one.status, {}, content)
    return _HOLD(reply) if one.status == _CAPTURED else _CHARGE(reply)


def _get(path: str, read: Callable[[Reply], T], **query: str | None) -> Operation[T]:
    return Operation("GET", path, read, query=_given(**query), is_harmless=True)


def _write(path: str, read: Callable[[Reply], T], body: Any, key: str | None) -> Operation[T]:
    return Operation("POST", path, read, body, key=_key(key))


def _key(given: str | None) -> str:
    key = str(uuid4()) if given is None else given
    is_short = 1 <= len(key) <= _LONGEST_KEY
    # A header's value loses the spaces around it.
    if not (is_short and key.isascii() and key.isprintable() and key == key.strip()):
        raise ValueError(
            "an idempotency key is 1 to 255 characters of printable ASCII, without spaces around it"
        )
    return key


def _settle(hold_id: UUID | str, what: str, **body: Any) -> Operation[m.Hold]:
    # The hold itself is the key: what has settled it gets the same answer when it comes again.
    path = f"{_HOLDS}/{_segment(hold_id)}/{what}"
    return Operation("POST", path, _HOLD, _given(**body), is_harmless=True)


def _entry_body(entry: NewCharge | Capture) -> dict[str, Any]:
    if isinstance(entry, NewCharge):
        return _charge_body(entry)
    amount = _given(amount_minor=entry.amount)
    return {"hold_id": str(entry.hold_id), "overage": entry.overage, **amount}


def _hold_body(user: m.User, amount: int, **details: Any) -> dict[str, Any]:
    return {**_identity(user, None), "amount_minor": amount, **_given(**details)}


def _charge_body(new: NewCharge) -> dict[str, Any]:
    return {
        **_identity(new.user, new.profile),
        "amount_minor": new.amount,
        "currency": new.currency,
        "description": new.description,
        **_given(metadata=new.metadata, idempotency_key=new.idempotency_key),
    }


def _identity(user: m.User, profile: m.Profile | None) -> dict[str, Any]:
    return {**m.User(*user)._asdict(), **(msgspec.to_builtins(profile) if profile else {})}


def _account_path(user: m.User) -> str:
    return f"{_API}/accounts/{'/'.join(map(_segment, user))}"


def _top_up_path(user: m.User) -> str:
    return f"{_account_path(user)}/top-up"


def _segment(value: object) -> str:
    text = str(value)
    if text in ("", ".", ".."):  # a path means something else by them
        raise ValueError(f"{text!r} cannot be a part of a path")
    return quote(text, safe="")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _time(moment: datetime) -> str:
    """The service takes a time without a zone for one in UTC."""
    return moment.isoformat()
