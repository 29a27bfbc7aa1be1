"""How to get each error about a hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tests.http.descriptions import Json
from tests.http.openapi.helpers import OPERATIONS, send
from tests.sql.holds import SECOND, stopped_clock
from tests.support import Service, credit_body, identity, unique


def hold_body(user: str, **fields: Any) -> Json:
    """A hold of five credits."""
    return {**identity(user), "amount_minor": 5, **fields}


def _hold(service: Service, **fields: Any) -> Json:
    """A new hold of a new user who has ten credits and no free use left."""
    user = unique()
    assert send(service, "checkCredit", body=identity(user)).is_success
    for _ in range(3):
        free = send(service, "createHold", body=hold_body(user), headers={}).json()
        assert _settle(service, "captureHold", free["hold_id"]).is_success
    credit = credit_body(user, amount=10)
    assert send(service, "createCredit", body=credit, headers={}).is_success
    made: Json = send(service, "createHold", body=hold_body(user, **fields), headers={}).json()
    return made


def _settle(service: Service, name: str, hold_id: str, **body: Any) -> Any:
    path = OPERATIONS[name]["path"].format(hold_id=hold_id)
    return send(service, name, path=path, body=body, headers={})


def _unknown(service: Service, name: str) -> Any:
    return send(service, name, path=OPERATIONS[name]["path"].format(hold_id=uuid4()))


def _settled(service: Service, name: str) -> Any:
    hold_id = _hold(service)["hold_id"]
    first, second = (
        ("captureHold", "releaseHold") if name == "releaseHold" else ("releaseHold", name)
    )
    assert _settle(service, first, hold_id).is_success
    return _settle(service, second, hold_id)


def _expired(service: Service, name: str) -> Any:
    made = _hold(service, expires_in_seconds=1)
    with stopped_clock(service.database, SECOND, made["created_at"]):
        other = send(service, "getHold", path=f"/v1/billing/holds/{made['hold_id']}").json()
        assert (other["status"], other["available"]) == ("expired", 10)
        _spend(service, made["account_id"], 6)
        return _settle(service, name, made["hold_id"])


def _spend(service: Service, account_id: str, amount: int) -> None:
    service.database.execute(
        "SELECT c.charge_id FROM billing_data.accounts AS a"
        " CROSS JOIN LATERAL billing.create_charge(p_oauth_provider => a.oauth_provider,"
        " p_external_id => a.external_id, p_amount_minor => %s) AS c WHERE a.id = %s",
        amount,
        account_id,
        user="t_dba",
    )


def _exceeded(service: Service, name: str) -> Any:
    return _settle(service, name, _hold(service)["hold_id"], amount_minor=6)


def check_with_a_used_key(service: Service) -> Any:
    """A check with a hold whose key made another hold before."""
    user = identity(unique())
    for amount in (1, 2):
        hold = {"amount_minor": amount, "idempotency_key": "once"}
        answer = send(service, "checkCredit", body={**user, "hold": hold})
    return answer


PROVOKE_HOLDS: dict[str, Callable[[Service, str], Any]] = {
    "capture_exceeds_hold": _exceeded,
    "hold_expired": _expired,
    "hold_not_found": _unknown,
    "hold_settled": _settled,
}
