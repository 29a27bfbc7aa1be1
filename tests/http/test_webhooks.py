"""Alerts from their cause to a receiver: signed, repeated until they are accepted, and sent to no
private address."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tests.http.admin_api.helpers import (
    Person,
    audit_rows,
    hire,
    session_cookie,
    staff_environment,
)
from tests.receiver import Receiver, running_receiver
from tests.sql.helpers import new_user, set_staff_domain
from tests.support import Database, Service, running_service, unique, wait_for

ALLOWED: dict[str, Any] = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "WEBHOOK_TIMEOUT": "2"}


@pytest.fixture(scope="module")
def service(module_database: Database) -> Iterator[Service]:
    """A server that may send alerts to this machine."""
    set_staff_domain(module_database)
    with running_service(module_database, **staff_environment(), **ALLOWED) as service:
        yield service


@pytest.fixture(scope="module")
def admin(service: Service) -> Person:
    return hire(service, "admin")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


def add(admin: Person, receiver: Receiver, *kinds: str, url: str | None = None) -> str:
    """A new endpoint for the receiver, which learns its secret. It is off."""
    body = {"name": unique("shop"), "url": url or receiver.url, "kinds": kinds, "reason": "a test"}
    answer = admin.post("/webhooks", body)
    assert answer.status_code == 201, answer.text
    receiver.secrets.append(answer.json()["secret"])
    return str(answer.json()["endpoint_id"])


def switch(admin: Person, endpoint: str, status: str) -> None:
    answer = admin.put(f"/webhooks/{endpoint}", {"status": status, "reason": "a test"})
    assert answer.status_code == 200, answer.text


@pytest.fixture
def endpoint(admin: Person, receiver: Receiver) -> Iterator[str]:
    """An endpoint that was tried and is on."""
    endpoint = add(admin, receiver)
    assert admin.post(f"/webhooks/{endpoint}/try").json()["accepted"]
    assert receiver.accepted.pop()["type"] == "webhook.test"
    receiver.ids.clear()
    switch(admin, endpoint, "on")
    yield endpoint
    switch(admin, endpoint, "off")


def suspend(database: Database, who: dict[str, str], status: str = "suspended") -> None:
    """Raises an alert."""
    database.execute(
        "SELECT billing.set_account_status(p_oauth_provider => %s, p_external_id => %s,"
        " p_status => %s, p_reason => 'a test')",
        *who.values(), status, user="t_dba",
    )  # fmt: skip


def due_now(database: Database) -> None:
    """What waits after a failed attempt is due at once."""
    database.execute("UPDATE billing_data.outbox SET due_at = now() WHERE state = 'waiting'")


def row_of(database: Database, endpoint: str) -> tuple[Any, ...]:
    """State, attempts, status and error of the endpoint's newest delivery."""
    (row,) = database.execute(
        "SELECT state, attempts, answer_status, error FROM billing_data.outbox"
        " WHERE endpoint_id = %s ORDER BY created_at DESC LIMIT 1", UUID(endpoint),
    )  # fmt: skip
    return tuple(row)


def settled(database: Database, endpoint: str, state: str) -> tuple[Any, ...]:
    wait_for(lambda: row_of(database, endpoint)[0] == state, f"a delivery that is {state}")
    return row_of(database, endpoint)


def test_an_alert_is_received_signed_with_the_accounts_identity(
    service: Service, receiver: Receiver, endpoint: str
) -> None:
    who = new_user(service.database)
    suspend(service.database, who)
    (alert,) = receiver.wait(1)
    assert alert["type"] == "account.suspended"
    assert alert["timestamp"].endswith("Z")
    assert alert["data"].items() >= {**who, "previous_status": "active"}.items()
    assert settled(service.database, endpoint, "delivered") == ("delivered", 1, 204, None)
    assert receiver.refused == 0


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [
        (500, (500, "it answered 500")),
        ("redirect", (302, "it answered 302: redirects are not followed")),
        ("reset", (None, "the connection broke before it answered")),
        ("hang", (None, "it did not answer within 2 s")),
        ("flood", (500, "it answered 500")),
    ],
)
def test_what_is_not_accepted_is_sent_again_under_the_same_id(
    service: Service,
    receiver: Receiver,
    endpoint: str,
    behaviour: Any,
    answer: tuple[int | None, str],
) -> None:
    receiver.behaviours.append(behaviour)
    suspend(service.database, new_user(service.database))
    wait_for(lambda: row_of(service.database, endpoint)[3] == answer[1], answer[1])
    assert row_of(service.database, endpoint) == ("waiting", 1, *answer)
    due_now(service.database)
    receiver.wait(1)
    assert settled(service.database, endpoint, "delivered") == ("delivered", 2, 204, None)
    assert len(set(receiver.ids)) == 1
    assert len(receiver.ids) == 2
    assert receiver.elsewhere == 0


def test_a_delivery_is_parked_after_its_last_attempt_and_staff_send_it_again(
    service: Service, admin: Person, receiver: Receiver, endpoint: str
) -> None:
    receiver.behaviours.append(500)
    service.database.execute("UPDATE billing_data.webhook_endpoints SET status = 'paused'")
    suspend(service.database, new_user(service.database))
    service.database.execute("UPDATE billing_data.outbox SET attempts = 10 WHERE state = 'waiting'")
    switch(admin, endpoint, "on")
    assert settled(service.database, endpoint, "failed") == ("failed", 11, 500, "it answered 500")
    (row,) = admin.get("/webhook-deliveries", endpoint_id=endpoint, state="failed")["deliveries"]
    assert row["payload"]["type"] == row["kind"] == "account.suspended"
    again = f"/webhook-deliveries/{row['delivery_id']}/resend"
    assert admin.post(again, {"reason": "it is mended"}).json() == {"deliveries": 1}
    receiver.wait(1)
    assert settled(service.database, endpoint, "delivered")[1] == 1
    assert receiver.ids == [row["event_id"]] * 2


def shown(admin: Person, endpoint: str) -> dict[str, Any]:
    """The endpoint as staff see it."""
    [found] = [one for one in admin.get("/webhooks") if one["endpoint_id"] == endpoint]
    return dict(found)


def test_an_endpoint_that_answers_410_is_switched_off_once_and_says_why(
    service: Service, admin: Person, receiver: Receiver, endpoint: str
) -> None:
    switch(admin, endpoint, "paused")
    for _ in range(3):
        suspend(service.database, new_user(service.database))
    # A 410 to what was sent before the endpoint was tried again is an old answer.
    delivery = service.database.value(
        "UPDATE billing_data.outbox SET attempts = 1, attempted_at = now() - interval '1 hour'"
        " WHERE id = (SELECT max(o.id::text)::uuid FROM billing_data.outbox AS o"
        " WHERE o.endpoint_id = %s) RETURNING id", UUID(endpoint),
    )  # fmt: skip
    note = (
        "SELECT billing.note_delivery(p_delivery_id => %s, p_attempt => 1,"
        " p_answer_status => 410, p_error => 'it answered 410')"
    )
    assert service.database.value(note, delivery, user="t_web") == "waiting"
    assert shown(admin, endpoint)["status"] == "paused"
    due_now(service.database)
    receiver.behaviours += [410] * 3
    switch(admin, endpoint, "on")
    wait_for(lambda: shown(admin, endpoint)["status"] == "off", "the endpoint to be switched off")
    gone = shown(admin, endpoint)
    assert (gone["waiting"], gone["failed"], gone["tried_at"]) == (0, 3, None)
    why = "it answered 410 Gone: its owner wants no alerts any more"
    assert gone["problem"] == why
    errors = {
        row["error"] for row in admin.get("/webhook-deliveries", endpoint_id=endpoint)["deliveries"]
    }
    assert why in errors
    assert errors <= {why, "the endpoint was switched off"}
    browser = replace(admin, token="")
    page = browser.call("GET", "/admin/webhooks", headers={"Cookie": session_cookie(admin)})
    assert f"by the sender: {why}" in page.text
    acts = [(row[0], row[2], row[7]) for row in audit_rows(service, endpoint)]
    assert [act for act in acts if act[0] == "webhook.gone"] == [("webhook.gone", why, "t_web")]
    # As every endpoint, it is switched on after a trial.
    refused = admin.put(f"/webhooks/{endpoint}", {"status": "on", "reason": "a test"})
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_not_tried")
    receiver.behaviours.clear()
    assert admin.post(f"/webhooks/{endpoint}/try").json()["accepted"]
    assert shown(admin, endpoint)["problem"] is None
    switch(admin, endpoint, "on")
    suspend(service.database, new_user(service.database))
    assert settled(service.database, endpoint, "delivered")[2] == 204


def test_alerts_wait_while_an_endpoint_is_paused_and_are_parked_when_it_is_switched_off(
    service: Service, admin: Person, receiver: Receiver, endpoint: str
) -> None:
    switch(admin, endpoint, "paused")
    who = new_user(service.database)
    suspend(service.database, who)
    other = add(admin, receiver, "account.reactivated")
    assert admin.post(f"/webhooks/{other}/try").json()["accepted"]
    switch(admin, other, "on")
    suspend(service.database, who, "active")
    settled(service.database, other, "delivered")
    assert row_of(service.database, endpoint) == ("waiting", 0, None, None)
    switch(admin, endpoint, "on")
    settled(service.database, endpoint, "delivered")
    wait_for(lambda: len(receiver.accepted) == 4, "a test event and three alerts")
    switch(admin, endpoint, "paused")
    suspend(service.database, who)
    switch(admin, endpoint, "off")
    assert row_of(service.database, endpoint)[0] == "failed"
    assert admin.post(f"/webhooks/{endpoint}/resend", {"reason": "x"}).json()["code"] == (
        "webhook_endpoint_off"
    )
    switch(admin, endpoint, "on")
    assert admin.post(f"/webhooks/{endpoint}/resend", {"reason": "x"}).json() == {"deliveries": 1}
    settled(service.database, endpoint, "delivered")
    switch(admin, other, "off")


def test_an_endpoint_that_hangs_delays_no_other(
    service: Service, admin: Person, receiver: Receiver, endpoint: str
) -> None:
    with running_receiver() as slow:
        hanging = add(admin, slow)
        assert admin.post(f"/webhooks/{hanging}/try").json()["accepted"]
        switch(admin, hanging, "on")
        slow.behaviours.extend(["hold"] * 12)
        for _ in range(3):
            suspend(service.database, new_user(service.database))
        receiver.wait(3)
        slow.hold.set()
        slow.wait(4)
        switch(admin, hanging, "off")


def test_for_a_day_the_old_secret_signs_as_well(
    service: Service, admin: Person, receiver: Receiver, endpoint: str
) -> None:
    (old,) = receiver.secrets
    rotated = admin.post(f"/webhooks/{endpoint}/rotate", {"reason": "it leaked"}).json()
    assert rotated["secret"].startswith("whsec_")
    for secret in (old, rotated["secret"]):
        receiver.secrets[:] = [secret]
        receiver.accepted.clear()
        suspend(service.database, new_user(service.database))
        receiver.wait(1)
    service.database.execute(
        "UPDATE billing_data.webhook_endpoints SET old_secret_until = now() WHERE id = %s",
        UUID(endpoint),
    )
    receiver.secrets[:] = [old]
    suspend(service.database, new_user(service.database))
    wait_for(lambda: receiver.refused == 1, "a delivery that the old secret has not signed")
    text = str(admin.get("/webhooks")) + str(
        service.database.execute("SELECT e::text FROM billing_data.webhook_endpoints AS e")
    )
    assert rotated["secret"] not in text
    assert old not in text


def test_an_endpoint_is_switched_on_only_after_it_accepted_a_test_event_at_its_address(
    service: Service, admin: Person, receiver: Receiver
) -> None:
    endpoint = add(admin, receiver)
    on = {"status": "on", "reason": "a test"}
    assert admin.put(f"/webhooks/{endpoint}", on).json()["code"] == "webhook_not_tried"
    receiver.behaviours.append(500)
    assert admin.post(f"/webhooks/{endpoint}/try").json() == {
        "accepted": False, "answer_status": 500, "error": "it answered 500",
    }  # fmt: skip
    assert admin.put(f"/webhooks/{endpoint}", on).json()["code"] == "webhook_not_tried"
    assert admin.post(f"/webhooks/{endpoint}/try").json()["accepted"]
    switch(admin, endpoint, "on")
    moved = admin.put(f"/webhooks/{endpoint}", {"url": f"{receiver.url}?v=2", "reason": "moved"})
    assert (moved.json()["status"], moved.json()["previous_status"]) == ("off", "on")
    assert admin.put(f"/webhooks/{endpoint}", on).json()["code"] == "webhook_not_tried"


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.7/", "https://169.254.169.254/latest", "https://[::1]/", "https://0.0.0.0/",
        "https://[::ffff:10.0.0.7]/", "https://[fe80::1]/", "https://[2002:a00:7::]/",
        "https://[64:ff9b::a00:7]/", "https://[fec0::1]/", "https://[3fff::1]/",
        "https://192.0.0.9/", "https://192.88.99.1/", "https://192.168.1.1:8443/",
        "https://[::10.0.0.7]/", "https://[fd00::1]/", "https://[ff0e::1]/", "https://100.64.0.1/",
        "https://224.0.0.1/", "https://255.255.255.255/", "https://0x0a000007/",
        "https://167772167/", "https://nowhere.invalid/", "http://93.184.215.14/", "ftp://127.0.0.1/",
        "https://ada:secret@93.184.215.14/", "https://127.0.0.1:99999/", "https:///x", "x",
        "https://93.184.215.14/#x",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused_when_it_is_given(
    admin: Person, service: Service, url: str
) -> None:
    body = {"name": "x", "url": url, "reason": "a test"}
    answer = admin.post("/webhooks", body)
    assert answer.status_code == 422, answer.text


def test_an_address_is_judged_again_when_it_is_connected_to(
    module_database: Database, admin: Person, receiver: Receiver, endpoint: str
) -> None:
    # What was public when it was given leads to this machine now: here, the operator allows the
    # network no longer.
    for host in ("localhost", "127.0.0.1"):
        url = f"http://{host}:{receiver.port}/billing"
        module_database.execute(
            "UPDATE billing_data.webhook_endpoints SET url = %s WHERE id = %s", url, UUID(endpoint)
        )
        switch(admin, endpoint, "paused")
        suspend(module_database, new_user(module_database))
        with running_service(module_database, **staff_environment()) as strict:
            person = hire(strict, "admin")
            # The endpoint's secret is of another key: it is tried with a new one.
            rotated = person.post(f"/webhooks/{endpoint}/rotate", {"reason": "x"})
            assert rotated.status_code == 200
            module_database.execute(
                "UPDATE billing_data.webhook_endpoints SET old_secret = NULL,"
                " old_secret_until = NULL WHERE id = %s", UUID(endpoint),
            )  # fmt: skip
            tried = person.post(f"/webhooks/{endpoint}/try").json()
            assert tried["error"] == "its address is private or special"
    assert receiver.ids == []


def test_a_server_that_is_killed_between_delivery_and_its_note_delivers_again(
    database: Database, receiver: Receiver
) -> None:
    set_staff_domain(database)
    environment = {**staff_environment(), **ALLOWED}
    with running_service(database, **environment) as first:
        person = hire(first, "admin")
        endpoint = add(person, receiver)
        assert person.post(f"/webhooks/{endpoint}/try").json()["accepted"]
        receiver.accepted.clear()
        receiver.ids.clear()
        switch(person, endpoint, "on")
        receiver.behaviours.append("hold")
        suspend(database, new_user(database))
        receiver.wait(1)  # it has the alert, and the server waits for its answer
        os.killpg(first.process.process.pid, signal.SIGKILL)
        first.process.process.wait()
        assert row_of(database, endpoint)[:2] == ("waiting", 1)
        receiver.hold.set()
    with running_service(database, **environment):
        assert row_of(database, endpoint)[:2] == ("waiting", 1)  # the claim lasts a minute
        due_now(database)
        receiver.wait(2)
        assert settled(database, endpoint, "delivered")[1] == 2
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1
