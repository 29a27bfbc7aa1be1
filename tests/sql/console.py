"""What the tests of the console's functions share."""

from __future__ import annotations

import uuid
from typing import Any

from tests.sql.helpers import (
    Caller,
    account_of,
)
from tests.support import Database


def assert_argument_refused(caller: Caller, function: str, argument: str, **arguments: Any) -> None:
    refusal = caller.refusal(function, **arguments)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument"), refusal
    assert refusal.detail["argument"] == argument


def account_id_of(database: Database, who: dict[str, str]) -> uuid.UUID:
    found: uuid.UUID = account_of(database, who)["id"]
    return found
