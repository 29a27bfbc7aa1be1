"""The sample data of `ciris-billing dev --sample-data`: a few users and their uses. The same
functions make it that serve agents' calls. Making it again changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from server.cli.database import call_function

_AGENTS = ("scout", "ally")


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    granted: int
    uses: int
    status: str = "active"


_USERS = (
    _User("ada", granted=100, uses=42),
    _User("ben", granted=20, uses=23),  # uses everything, including the three free uses
    _User("chloe", granted=0, uses=2),
    _User("dmitri", granted=50, uses=7),
    _User("emeka", granted=5, uses=0),
    _User("fatima", granted=20, uses=4, status="suspended"),
)


def make_sample_data() -> None:
    """Makes the users that do not exist yet."""
    rows = call_function(
        "SELECT a.external_id FROM billing.list_accounts(p_search => 'sample-') AS a"
    )
    there = {row["external_id"] for row in rows}
    for user in _USERS:
        external_id = f"sample-{user.name}"
        if external_id not in there:
            _make(user, external_id)


def _make(user: _User, external_id: str) -> None:
    call_function(
        "SELECT billing.check_credit(p_oauth_provider => 'oauth:google',"
        " p_external_id => %(external_id)s, p_customer_email => %(email)s)",
        external_id=external_id,
        email=f"{user.name}@example.com",
    )
    if user.granted:
        call_function(
            "SELECT billing.create_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => %(external_id)s, p_amount_minor => %(granted)s,"
            " p_description => 'Welcome', p_idempotency_key => 'sample-grant')",
            external_id=external_id,
            granted=user.granted,
        )
    call_function(
        "SELECT billing.create_charge(p_oauth_provider => 'oauth:google',"
        " p_external_id => %(external_id)s, p_description => 'An answer',"
        " p_metadata_agent_id => (%(agents)s::text[])[1 + i %% 2],"
        " p_idempotency_key => 'sample-use-' || i)"
        " FROM generate_series(1, %(uses)s) AS i",
        external_id=external_id,
        agents=list(_AGENTS),
        uses=user.uses,
    )
    if user.status != "active":
        call_function(
            "SELECT billing.set_account_status(p_oauth_provider => 'oauth:google',"
            " p_external_id => %(external_id)s, p_status => %(status)s,"
            " p_reason => 'Sample data')",
            external_id=external_id,
            status=user.status,
        )
