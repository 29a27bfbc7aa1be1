"""What was asked and answered in a round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `replayed` is true when it says that it repeats the first one."""

    status: int
    body: Json
    headers: Any
    sent_at: float

    @property
    def replayed(self) -> bool:
        return "Idempotent-Replayed" in self.headers


@dataclass
class Hold:
    """A hold: what its client has asked for, and what was acknowledged."""

    name: str  # its idempotency key and its description
    amount: int
    id: str = ""  # empty until it is acknowledged
    ends: float = 0  # the latest end that was acknowledged
    asked: set[str] = field(default_factory=set)  # states that its client asked for
    settled: Json | None = None  # the answer that captured or released it


@dataclass
class History:
    """What was asked and answered in a round."""

    acknowledged: dict[str, Json] = field(default_factory=dict)  # name of a write -> its answer
    asked: set[str] = field(default_factory=set)  # names of all writes
    hot: set[str] = field(default_factory=set)  # the names of writes on the hot accounts
    holds: dict[str, Hold] = field(default_factory=dict)  # by name
    faults: list[str] = field(default_factory=list)  # answers that are wrong
    answers: int = 0
    refusals: int = 0  # 503 and broken connections


def matches(row: dict[str, Any], answer: Json) -> bool:
    """Whether a ledger row agrees with its answer."""
    kept = answer.get("charge_id", answer.get("credit_id"))
    return str(row["id"]) == kept and row["balance_after"] == answer["balance_after"]
