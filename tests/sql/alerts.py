"""Endpoints that alerts are sent to, and what is on its way to them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from tests.sql.helpers import Caller, session
from tests.support import Database, unique

SEALED = json.dumps({"encrypted": "not for tests of SQL", "masked": "whsec_…test"})
URL = "https://example.com/billing"


def alerted(database: Database, *kinds: str) -> UUID:
    """A new endpoint's id, for alerts of these kinds or of all. It is off."""
    with session(database, "t_dba") as dba:
        return _created(dba, *kinds)


def _created(dba: Caller, *kinds: str) -> UUID:
    endpoint: UUID = dba.value(
        "create_webhook_endpoint", name=unique("shop"), url=URL, kinds=list(kinds),
        secret=SEALED, reason="a test",
    )  # fmt: skip
    return endpoint


def switch_on(database: Database, endpoint: UUID, status: str = "on") -> None:
    """Switches an endpoint on, as if it had accepted a test event."""
    with session(database, "t_dba") as dba:
        _switched(dba, endpoint, status)


def _switched(dba: Caller, endpoint: UUID, status: str) -> None:
    assert dba.value("record_webhook_try", endpoint_id=endpoint, url=URL)
    dba.row("set_webhook_endpoint", endpoint_id=endpoint, status=status, reason="a test")


def listening(database: Database, *kinds: str) -> UUID:
    """A new endpoint that is switched on."""
    endpoint = alerted(database, *kinds)
    switch_on(database, endpoint)
    return endpoint


def listen(dba: Caller, *kinds: str) -> UUID:
    """The same, in the session of a DBA that there is."""
    endpoint = _created(dba, *kinds)
    _switched(dba, endpoint, "on")
    return endpoint


def raised(database: Database, endpoint: UUID) -> UUID:
    """A new alert's row for an endpoint that is switched on."""
    database.execute("SELECT billing_data.raise_alert('cap.reached', NULL)")
    delivery: UUID = database.value(
        "SELECT o.id FROM billing_data.outbox AS o WHERE o.endpoint_id = %s"
        " ORDER BY o.created_at DESC LIMIT 1", endpoint,
    )  # fmt: skip
    return delivery


def failed_delivery(database: Database, endpoint: UUID) -> UUID:
    """A row whose delivery was given up."""
    delivery = raised(database, endpoint)
    database.execute(
        "UPDATE billing_data.outbox SET state = 'failed', settled_at = now(), attempts = 11,"
        " error = 'it answered 500' WHERE id = %s", delivery,
    )  # fmt: skip
    return delivery


def alerts_of(database: Database, account: Any = None) -> list[tuple[str, dict[str, Any]]]:
    """The kinds and data of the alerts, of one account or all, in their order."""
    return database.execute(
        "SELECT o.kind, o.data FROM billing_data.outbox AS o"
        " WHERE %s::uuid IS NULL OR o.account_id = %s ORDER BY o.created_at", account, account,
    )  # fmt: skip


def old_delivery(database: Database, endpoint: UUID) -> UUID:
    """A row that was delivered years ago."""
    delivery = raised(database, endpoint)
    database.execute(
        "UPDATE billing_data.outbox SET state = 'delivered', settled_at = '2020-01-01'"
        " WHERE id = %s", delivery,
    )  # fmt: skip
    return delivery


def forget_endpoints(database: Database) -> None:
    """Deletes all endpoints: there can be 20 at most."""
    database.execute("DELETE FROM billing_data.webhook_endpoints")
