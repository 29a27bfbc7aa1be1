"""Staff in the staff API: who is added, changed, and stays."""

from __future__ import annotations

import re
import threading

import httpx2
import pytest

from tests.http.admin_api.helpers import (
    AGENT,
    Z_TIME,
    Json,
    Person,
    audit_rows,
    hire,
    staff_environment,
)
from tests.http.contract import (
    assert_error,
    faults_of,
)
from tests.sql.helpers import set_staff_domain
from tests.support import (
    Database,
    Service,
    running_service,
    unique,
)

# Staff


def test_somebody_is_added_promoted_deactivated_and_brought_back(
    service: Service, admin: Person
) -> None:
    email = f"{unique('Grace')}@example.com"
    added = admin.post("/staff", {"email": email, "name": "Grace Hopper"})
    assert added.status_code == 201
    member = added.json()
    assert member == {
        "id": member["id"],
        "email": email.lower(),
        "name": "Grace Hopper",
        "role": "viewer",
        "is_active": True,
    }
    promoted = admin.put(f"/staff/{email}", {"role": "admin", "reason": "trusted"})
    assert promoted.json() == {**member, "role": "admin"}
    gone = admin.put(f"/staff/{email}", {"is_active": False, "reason": "left"})
    assert gone.json() == {**member, "role": "admin", "is_active": False}
    back = admin.put(f"/staff/{email}", {"is_active": True, "role": "viewer", "reason": "back"})
    assert back.json() == member
    (listed,) = [one for one in admin.get("/staff")["staff"] if one["id"] == member["id"]]
    assert {**member, **listed} == listed
    assert (listed["last_login_at"], bool(re.fullmatch(Z_TIME, listed["created_at"]))) == (
        None,
        True,
    )
    rows = audit_rows(service, member["id"])
    assert [(row[0], row[2]) for row in rows] == [
        ("admin.set", "back"),
        ("admin.set", "left"),
        ("admin.set", "trusted"),
        ("admin.add", None),
    ]
    assert rows[1][3]["before"] == {"role": "admin", "is_active": True}
    assert rows[1][3]["after"] == {"role": "admin", "is_active": False}
    assert {(row[1], row[4], row[5]) for row in rows} == {(admin.id, "127.0.0.1", AGENT)}


def test_staff_come_from_the_staffs_domain(admin: Person) -> None:
    for email in ("ada@evil.example.org", "ada", "ada@example.com@evil.example.org"):
        answer = admin.post("/staff", {"email": email})
        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid_argument"
        assert answer.json()["detail"].startswith("Invalid email: ")
    assert faults_of(admin.post("/staff", {"email": "a@example.com", "role": "root"}))
    unknown = admin.put("/staff/nobody@example.com", {"role": "admin", "reason": "x"})
    assert_error(unknown, 404, "Staff member not found: nobody@example.com")


@pytest.mark.parametrize("local", ["o'brien", "ada<b>", "ünï", "a!#$&*=?^`{|}~b", '"quoted"'])
def test_an_odd_address_is_taken_or_refused_but_no_fault_of_ours(admin: Person, local: str) -> None:
    answer = admin.post("/staff", {"email": f"{local}{unique()}@example.com"})
    assert answer.status_code in (201, 422), answer.text


def test_the_last_administrator_stays_one(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        only = hire(service, "admin")
        for change in ({"role": "viewer"}, {"is_active": False}):
            answer = only.put(f"/staff/{only.email}", {**change, "reason": "oops"})
            assert_error(answer, 409, "This would leave nobody with the role admin")
            assert answer.json()["code"] == "last_admin"
        assert only.get("/audit-log", action="admin.set")["entries"] == []


def test_the_last_administrator_stays_one_however_they_are_added_again(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        only = hire(service, "admin")
        only.post("/staff", {"email": only.email, "role": "viewer"})
        assert only.call("GET", "/admin/oauth/user").json()["role"] == "admin"


def test_two_administrators_who_remove_each_other_leave_one(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        people = [hire(service, "admin") for _ in range(2)]
        for change in ({"is_active": False}, {"role": "viewer"}):
            answers: list[httpx2.Response] = []
            barrier = threading.Barrier(2)

            def remove(
                who: Person,
                whom: Person,
                change: Json = change,
                barrier: threading.Barrier = barrier,
                answers: list[httpx2.Response] = answers,
            ) -> None:
                barrier.wait(10)
                answers.append(who.put(f"/staff/{whom.email}", {**change, "reason": "a quarrel"}))

            threads = [
                threading.Thread(target=remove, args=(people[first], people[1 - first]))
                for first in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert sorted(answer.status_code for answer in answers)[0] == 200
            assert {answer.status_code for answer in answers} <= {200, 403, 409}
            left = database.execute(
                "SELECT u.email FROM billing_data.admin_users AS u"
                " WHERE u.role = 'admin' AND u.is_active"
            )
            assert len(left) == 1
            for person in people:
                database.execute(
                    "SELECT billing.add_admin(p_email => %s, p_role => 'admin')",
                    person.email,
                    user="t_dba",
                )
