"""API keys and staff of a database that was taken over."""

from __future__ import annotations

from tests.sql.adoption.helpers import (
    Adopted,
)
from tests.sql.helpers import session
from tests.support import (
    Service,
    identity,
)


def test_every_key_gets_its_right_verdict(adopted: Adopted, adopted_service: Service) -> None:
    with adopted_service.client() as client:
        verdicts = {
            key.name: client.post(
                "/v1/billing/credits/check",
                json=identity("somebody"),
                headers={"X-API-Key": key.secret},
            ).status_code
            for key in adopted.keys
        }
    right = {key.name: 200 if key.works else 401 for key in adopted.keys}
    assert verdicts == {**right, "old permissions": 403}
    named = {ended.name for ended in adopted.report.ended_keys}
    assert named == {key.name for key in adopted.keys if key.is_ended}


def test_a_rotating_key_ends_when_its_recorded_grace_does(adopted: Adopted) -> None:
    row = adopted.database.execute(
        "SELECT k.status, k.expires_at = (k.metadata ->> 'grace_period_until')::timestamptz,"
        " s.name FROM billing_data.api_keys AS k"
        " INNER JOIN billing_data.api_keys AS s ON s.id = k.rotated_to"
        " WHERE k.name = 'rotating, in its grace'"
    )
    assert row == [("rotating", True, "successor")]


def test_staff_keep_their_roles_and_google_ids(adopted: Adopted) -> None:
    rows = adopted.database.execute(
        "SELECT email, role, is_active, google_id FROM billing_data.admin_users ORDER BY email"
    )
    assert rows == [
        ("ada@ciris.ai", "admin", True, "1001"),
        ("ben@ciris.ai", "viewer", True, "1002"),
        ("cyd@ciris.ai", "admin", False, "1003"),
        ("dan@ciris.ai", "admin", True, None),
        ("eve@ciris.ai", "viewer", True, "1005"),
    ]
    uninvited = next(f for f in adopted.report.findings if "never signed in" in f.what)
    assert uninvited.examples == ("dan@ciris.ai",)
    with session(adopted.database, "t_web") as web:
        signed_in = web.rows(
            "sign_in_admin",
            email="ada@ciris.ai",
            google_id="1001",
            full_name="Ada",
            session_hash=b"0" * 32,
        )
        assert signed_in[0]["role"] == "admin"
