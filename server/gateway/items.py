"""How lists of checks, charges, holds and captures are sent, and single ones: as tuples in the
order of the composite types that sql/items.sql makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.gateway.call import Statement, parameter, select_from
from server.gateway.item_fields import fields_of, newest

CHARGE_KEY = 5  # the position of the idempotency key in a charge, and in a hold
HOLD_KEY = 6

# How long a call waits for a lock, as text that lock_timeout accepts ('500ms'), for the call's own
# transaction. With NULL it does not wait. It is set in the same message, because each message takes
# time.
_WAIT = (
    "CASE WHEN {0}::text IS NULL THEN false ELSE set_config('lock_timeout', {0}, true) <> '' END"
)


@dataclass(frozen=True, slots=True)
class ListCall:
    """A call of billing.`function` with a list of items. The argument `wait` is how long to wait
    for a lock, as lock_timeout() makes it; with None the call does not wait."""

    function: str
    arguments: tuple[str, ...]
    columns: tuple[str, ...]
    label: str

    def statement(self) -> Statement:
        """The statement that makes the call."""
        values = {name: f"${number}" for number, name in enumerate(self.arguments, 1)}
        values["wait"] = _WAIT.format(values["wait"])
        passed = ", ".join(f"{parameter(name)} => {value}" for name, value in values.items())
        call = f"billing.{self.function}({passed})"
        return Statement(select_from(call, self.function, self.columns), self.label)


@dataclass(frozen=True, slots=True, eq=False)
class ItemType:
    """A composite type whose lists are sent with `call`. `single` is the function for one plain
    item, if there is one, with the item's fields as its first arguments. `constants` are the
    columns of an answer, as SQL, that come neither from the function nor from the item. The item's
    account is named by its first `naming` fields."""

    name: str
    call: ListCall
    single: str | None = None
    constants: Mapping[str, str] = field(default_factory=dict)
    naming: int = 2

    @property
    def label(self) -> str:
        """The name of its calls in metrics and traces."""
        return self.call.label

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of an answer."""
        return self.call.columns

    def single_statement(self, fields: Sequence[str]) -> Statement | None:
        """The statement for one item with these fields. It returns no row where the item is not
        plain."""
        if self.single is None:
            return None
        echoed = {name: f"${place}" for place, name in enumerate(fields, 1)}
        passed = ", ".join(f"{parameter(name)} => {place}" for name, place in echoed.items())
        others = {**echoed, **self.constants}
        columns = ", ".join(
            f"{others.get(column, f'f.{column}')} AS {column}" for column in self.columns
        )
        sql = f"SELECT {columns} FROM billing.{self.single}({passed}, p_only_plain => true) AS f"  # noqa: S608
        return Statement(sql, self.label)


def lock_timeout(seconds: float) -> str:
    """How long a list waits for a lock, in the form that a ListCall takes."""
    return f"{seconds * 1000:.0f}ms"


CHECK_ITEM = ItemType(
    newest("check_item", "check_item"),
    ListCall(
        newest("check_items", "check_item"),
        ("items", "wait"),
        fields_of("check_outcome"),
        "check_credits",
    ),
    "check_credit",
    {"item": "1", "outcome": "'checked'", "account_created": "false"},
)
CHARGE_ITEM = ItemType(
    newest("charge_item", "charge_item"),
    ListCall(
        newest("charge_items", "charge_item"),
        ("items", "wait"),
        # Arguments that no answer needs are left out.
        tuple(
            name
            for name in fields_of("charge_outcome")
            if name not in ("balance_before", "replayed")
        ),
        "create_charges",
    ),
    "create_charge",
    {
        "item": "1",
        "outcome": "'created'",
        **{name: f"f.{name}" for name in ("amount_minor", "currency", "description")},
        "balance": "NULL::bigint",
        "account_currency": "NULL::text",
        "cap": "NULL::jsonb",
    },
)
# A list that takes effect as a whole, once per key.
CHARGE_ITEMS_ONCE = ListCall(
    newest("charge_items_once", "charge_item"),
    ("idempotency_key", "request_fingerprint", "items", "batch_fingerprint", "wait"),
    (*CHARGE_ITEM.columns, "replayed"),
    "create_charges_once",
)
HOLD_ITEM = ItemType(
    newest("hold_item", "hold_item"),
    ListCall(
        newest("hold_items", "hold_item"),
        ("items", "wait"),
        fields_of("hold_outcome"),
        "create_holds",
    ),
)
CAPTURE_ITEM = ItemType(
    newest("capture_item", "capture_item"),
    ListCall(
        newest("capture_items", "capture_item"),
        ("items", "wait"),
        fields_of("hold_outcome"),
        "capture_holds",
    ),
    naming=1,  # by the hold
)
# The same with captures; each row has the outcome of a charge or that of a capture.
SETTLE_ITEMS_ONCE = ListCall(
    newest("settle_items_once", "charge_item"),
    (
        "idempotency_key", "request_fingerprint", "items", "captures", "batch_fingerprint", "wait",
    ),
    ("charge", "capture", "replayed"),
    "settle_once",
)  # fmt: skip
ITEM_TYPES = (CHECK_ITEM, CHARGE_ITEM, HOLD_ITEM, CAPTURE_ITEM)
LIST_CALLS = (*(each.call for each in ITEM_TYPES), CHARGE_ITEMS_ONCE, SETTLE_ITEMS_ONCE)
