"""The items of checks and charges for the database, made from the request models."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID

from server.agent import charge_batches, charges, checks
from server.agent.charges import ChargeRequest
from server.gateway import CHARGE_KEY

_KEY = UUID("11111111-2222-3333-4444-555555555555")
_CHARGE = {
    "oauth_provider": "oauth:google",
    "external_id": 'user\'s "own" \\ \u00fc',
    "amount_minor": 5,
    "currency": "usd",
    "description": "One use",
    "metadata": {"agent_id": "scout"},
    "marketing_opt_in": True,
}


def test_items_have_the_fields_of_their_request_and_the_key_last() -> None:
    item = charges.CHARGE.item(ChargeRequest.model_validate(_CHARGE), _KEY)
    assert dict(zip(charges.CHARGE.fields, item, strict=True)) == {
        "oauth_provider": "oauth:google",
        "external_id": 'user\'s "own" \\ \u00fc',
        "amount_minor": 5,
        "currency": "USD",
        "description": "One use",
        "idempotency_key": None,
        "metadata_message_id": None,
        "metadata_agent_id": "scout",
        "metadata_channel_id": None,
        "metadata_request_id": None,
        "customer_email": None,
        "user_role": None,
        "agent_id": None,
        "marketing_opt_in": True,
        "marketing_opt_in_source": None,
        "api_key_id": _KEY,
    }
    assert checks.CHECK.fields[4:7] == (
        "context_agent_id",
        "context_channel_id",
        "context_request_id",
    )


def test_an_item_begins_with_its_account_and_has_its_key_where_the_batcher_looks() -> None:
    for item_type in (checks.CHECK, charges.CHARGE):
        assert item_type.fields[:2] == ("oauth_provider", "external_id")
    assert charges.CHARGE.fields[CHARGE_KEY] == "idempotency_key"


def test_a_batch_has_the_fingerprint_that_the_release_before_gave_it() -> None:
    """The release before hashed the text of its tuples, which had names."""
    item = charges.CHARGE.item(ChargeRequest.model_validate(_CHARGE), _KEY)
    before = (
        "[1,[0],[\"ChargeItem(oauth_provider='oauth:google', external_id='user\\\\'s \\\"own\\\""
        " \\\\\\\\ \u00fc', amount_minor=5, currency='USD', description='One use',"
        " idempotency_key=None, metadata_message_id=None, metadata_agent_id='scout',"
        " metadata_channel_id=None, metadata_request_id=None, customer_email=None, user_role=None,"
        " agent_id=None, marketing_opt_in=True, marketing_opt_in_source=None,"
        " api_key_id=UUID('11111111-2222-3333-4444-555555555555'))\"]]"
    )
    assert (
        charge_batches.batch_fingerprint_before(1, [0], [item]) == sha256(before.encode()).digest()
    )
