"""People's data: exported as one document, erased everywhere, consent withdrawn."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.sql.alerts import alerted, switch_on
from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    charge_all,
    charge_once,
    dump_of,
    is_blocked,
    key_id,
    ledger_problems,
    new_user,
    outcomes,
    person,
    session,
    staff,
)
from tests.sql.payments import (
    PRICE,
    attach,
    begin,
    bought,
    configure_provider,
    deliver,
    event_of,
    give_back,
    problems_of,
    warn,
)
from tests.sql.top_ups import agree, claim
from tests.support import Database, unique, wait_for

# Tables in which nothing is of a person who uses the service, and why.
NOT_PERSONAL = {
    "active_accounts": "days of use, counted from the charges",
    "active_accounts_by_day": "counts",
    "admin_sessions": "staff's",
    "admin_users": "staff's",
    "announced_lots": "ids of lots, told to expire soon",
    "api_keys": "the agents'",
    "cap_usage": "counts",
    "caps": "limits, by ids of accounts, keys and agents",
    "erased_accounts": "ids of accounts",
    "erased_audit_logs": "ids of audit rows",
    "erased_entries": "digests whose salt is gone",
    "hold_lots": "ids and amounts of holds and credits",
    "ledger_openings": "numbers that are proved from the ledger",
    "locks": "names of our own",
    "lot_allocations": "ids and amounts of entries",
    "merge_ranks": "the order of merges",
    "merged_accounts": "ids of accounts",
    "payment_providers": "what providers are called",
    "payment_return_credits": "which credits belong to which return",
    "provider_configs": "settings",
    "reversed_entries": "ids and amounts of entries",
    "scheduled_grants": "ids of schedules and their times",
    "seal_salts": "random numbers, deleted with the person",
    "seal_heads": "digests",
    "seal_state": "how far sealing is",
    "seals": "digests",
    "settings": "settings",
    "sign_in_tickets": "staff's",
    "usage_figures": "counts",
    "usage_figures_state": "times",
    "user_activity": "the newest day of use, from the charges",
    "user_pauses": "counts",
    "users_by_day": "counts",
    "verification_ranges": "what does not agree in the books, by accounts and numbers",
    "verification_runs": "who verified the books",
    "webhook_endpoints": "where alerts are sent",
}
# Columns that are not exported: they follow from the others, or say who of the staff acted.
NOT_EXPORTED = {
    "account_merges": {"admin_user_id", "request_fingerprint"},
    "account_notes": {"admin_user_id"},
    "account_requests": {"request_fingerprint"},
    "admin_audit_logs": {
        "admin_user_id", "database_login", "database_role", "ip_address", "user_agent",
    },
    "batch_requests": {"answer", "batch_fingerprint", "first_key_id", "request_fingerprint"},
    "charges": {"admin_user_id", "digest", "request_fingerprint"},
    "credits": {"admin_user_id", "digest", "request_fingerprint"},
    "grant_schedules": {"admin_user_id", "request_fingerprint"},
    "hold_changes": {"admin_user_id", "database_role"},
    "holds": {"request_fingerprint"},
    "payment_refunds": {"admin_user_id"},
    "purchases": {"admin_user_id", "request_fingerprint"},
}  # fmt: skip
# Columns of text that stay when the person is erased: words of closed sets, who wrote the row, and
# the ids by which the payment provider, or an agent, knows a payment, an event or a list.
KEPT = {
    "account_merges": {"database_role"},
    "account_notes": {"database_role"},
    "accounts": {"currency", "status"},
    "admin_audit_logs": {"action", "resource_id", "resource_type"},
    "batch_requests": {"idempotency_key"},
    "charges": {"currency", "database_role", "paid_with"},
    "credit_checks": {"database_role", "denial_reason"},
    "credits": {"currency", "database_role", "payment_provider", "transaction_type"},
    "grant_schedules": {"database_role", "repeat", "source", "transaction_type"},
    "hold_changes": {"change"},
    "holds": {"capture_overage", "currency", "database_role", "state"},
    "outbox": {"error", "kind", "state"},
    "lots": {"source"},
    "payment_effects": {"effect", "payment_id", "provider"},
    "payment_events": {"event_id", "event_type", "outcome", "payment_id", "provider"},
    "payment_refunds": {"database_role", "return_id"},
    "payment_returns": {"kind", "provider", "return_id", "state", "status"},
    "payment_warnings": {"kind", "payment_id", "provider", "warning_id"},
    "purchases": {"currency", "database_role", "payment_id", "payment_status", "provider"},
    "refused_charges": {"account_currency", "cap", "currency", "database_role", "reason"},
    "top_up_attempts": {"problem", "state"},
    "top_ups": {"currency", "database_role", "end_reason", "payment_id", "problem", "provider"},
}
_TEXTS = ("text", "character varying", "jsonb")


def _columns(database: Database) -> dict[str, dict[str, str]]:
    """Table -> column -> type of schema billing_data; a partition is its table's."""
    found: dict[str, dict[str, str]] = {}
    for table, column, of_type in database.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_class AS c"
        " INNER JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'billing_data'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped"
    ):
        found.setdefault(table, {})[column] = of_type
    return found


def _export(caller: Caller, account: UUID, **actor: Any) -> dict[str, list[dict[str, Any]]]:
    document = caller.value("export_personal_data", account_id=account, **actor)
    assert document["account_id"] == str(account)
    tables: dict[str, list[dict[str, Any]]] = document["tables"]
    return tables


def _erase(caller: Caller, account: UUID, **more: Any) -> dict[str, int]:
    rows = caller.rows("erase_personal_data", account_id=account, reason="asked for", **more)
    return {row["table_name"]: row["rows_erased"] for row in rows}


def _row(database: Database, account: UUID) -> dict[str, Any]:
    """The account's row."""
    with session(database, "postgres") as root:
        (row,) = root.execute("SELECT * FROM billing_data.accounts WHERE id = %s", account)
    return row


def _planted(database: Database, mark: str) -> UUID:
    """The id of an account whose mark is in every column that can name a person."""
    who = {"oauth_provider": f"oauth:{mark}", "external_id": mark}
    origin = {f"metadata_{name}_id": mark for name in ("message", "agent", "channel", "request")}
    key = key_id(database)
    configure_provider(database)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        dba.row(
            "create_account", **who, wa_id=mark, tenant_id=mark, plan_name=mark,
            customer_email=mark, user_role=mark, agent_id=mark, marketing_opt_in=True,
            marketing_opt_in_source=mark, idempotency_key=mark,
        )  # fmt: skip
        dba.row(
            "check_credit", **who, wa_id=mark, tenant_id=mark, context_agent_id=mark,
            context_channel_id=mark, context_request_id=mark,
        )  # fmt: skip
        charge = {**who, **origin, "description": mark, "idempotency_key": mark}
        dba.row("create_charge", **charge)
        listed = [{**charge, "idempotency_key": f"{mark} 2"}]
        assert outcomes(charge_once(web, listed, key, unique("list"))) == ["created"]
        dba.row("create_charge", **who)
        refused = {**charge, "idempotency_key": None, "amount_minor": 9}
        assert outcomes(charge_all(dba, [refused])) == ["insufficient_credits"]
        dba.row(
            "create_credit", **who, amount_minor=3, description=mark, idempotency_key=mark,
            external_transaction_id=mark,
        )  # fmt: skip
        dba.row("create_credit", **who, amount_minor=1, priority=1)
        dba.row(
            "set_grant_schedule", account_id=account_of(database, who)["id"], amount=1,
            reason=mark, description=mark, idempotency_key=mark,
        )  # fmt: skip
        held = {**origin, "amount_minor": 1, "description": mark, "idempotency_key": mark}
        hold = dba.row("create_hold", **who, **held)["hold_id"]
        dba.row("release_hold", hold_id=hold, reason=mark)
        purchase = begin(dba, who, customer_email=mark, idempotency_key=mark)
        payment_id, account = unique("pi"), purchase["account_id"]
        attach(dba, purchase, payment_id)
        payload = {"data": {"object": {"id": payment_id, "amount_received": PRICE, "email": mark}}}
        paid = deliver(dba, unique("evt"), payment_id, payload=json.dumps({**payload, mark: mark}))
        assert paid["outcome"] == "credited"
        # An event that names nothing of ours but the person's address, quoted as a whole.
        dba.row(
            "process_payment_event", event_id=unique("evt"), event_type="customer.created",
            payload=json.dumps({"email": mark}), action="ignore",
        )  # fmt: skip
        agree(
            dba, who, payment_id, threshold=9, consent_version=mark, consent_text=mark, card=mark,
            customer_id=mark, payment_method_id=mark,
        )  # fmt: skip
        dba.row("create_charge", **who, amount_minor=21)
        assert account in {row["account_id"] for row in claim(web)}
        refund = dba.row(
            "begin_refund", payment_id=payment_id, reason=mark, amount_minor=1, idempotency_key=mark
        )
        dba.row("finish_refund", refund_id=refund["refund_id"], failure=mark)
        give_back(dba, payment_id, (unique("re"), PRICE))
        warn(dba, payment_id, f"issfr_{payment_id}")
        dba.row("resolve_payment_warning", warning_id=f"issfr_{payment_id}", reason=mark)
        (short,) = problems_of(dba, payment_id)
        dba.row("resolve_shortfall", return_id=short["reference"], reason=mark)
        for undo in (True, False):
            other = account_of(database, new_user(database))["id"]
            dba.rows(
                "merge_accounts", account_id=other, into_account_id=account,
                reason="not one" if undo else mark, idempotency_key=f"{mark} {undo}",
            )  # fmt: skip
            if undo:
                dba.rows("undo_merge", account_id=other, reason="not one")
        switch_on(database, alerted(database))
        dba.row("add_note", account_id=account, note=mark)
        dba.row("set_account_status", **who, status="suspended", reason=mark)
        database.execute(
            "SELECT billing_data.raise_alert('cap.reached', %s,"
            " jsonb_build_object('agent_id', %s::text))", account, mark,
        )  # fmt: skip
    database.execute(
        "INSERT INTO billing_data.admin_audit_logs (action, resource_type, resource_id, changes,"
        " reason, database_role) VALUES ('account.note', 'account', %s,"
        " jsonb_build_object('note', %s::text, 'more', ARRAY[%s::text]), %s, 't_dba')",
        account, mark, mark, mark,
    )  # fmt: skip
    database.execute(
        "UPDATE billing_data.account_merges SET consent_before ="
        " jsonb_build_object('marketing_opt_in_source', %s::text), undo_key = %s, undo_reason = %s"
        " WHERE undone_at IS NOT NULL", mark, mark, mark,
    )  # fmt: skip
    database.execute(
        "UPDATE billing_data.payment_effects SET resolved_at = now(), resolution = %s,"
        " purchase_before = jsonb_build_object('customer_email', %s::text)"
        " WHERE payment_id = %s", mark, mark, payment_id,
    )  # fmt: skip
    database.execute(
        "UPDATE billing_data.payment_events SET resolved_at = now(), resolution = %s"
        " WHERE payment_id = %s", mark, payment_id,
    )  # fmt: skip
    return UUID(str(account))


@pytest.fixture(scope="module")
def planted(module_database: Database) -> tuple[UUID, str]:
    """An account with a mark in every column that can name a person, and the mark."""
    mark = unique("m4rk")
    return _planted(module_database, mark), mark


def test_every_table_and_column_is_exported_or_said_to_be_nothing_of_a_person(
    module_database: Database, planted: tuple[UUID, str]
) -> None:
    account, mark = planted
    with session(module_database, "t_dba") as dba:
        exported = _export(dba, account)
    columns = _columns(module_database)
    assert set(columns) == set(exported) | set(NOT_PERSONAL)
    assert not set(exported) & set(NOT_PERSONAL)
    for table, rows in exported.items():
        assert rows, table
        left_out = set(columns[table]) - {name for row in rows for name in row}
        assert left_out == NOT_EXPORTED.get(table, set()), table
        # The mark is where the test of erasing needs it: a new column of text must get it, too.
        marked = {name for row in rows for name in row if mark in json.dumps(row[name])}
        texts = {name for name, of_type in columns[table].items() if of_type in _TEXTS}
        assert texts - marked - left_out == KEPT.get(table, set()) - marked, table


def test_an_export_is_audited_and_only_an_administrator_or_a_dba_may_make_it(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who = new_user(module_database, paid=1)
    account = account_of(module_database, who)["id"]
    viewer, admin = staff(module_database, "viewer"), staff(module_database, "admin")
    for call in ("export_personal_data", "erase_personal_data", "withdraw_consent"):
        more: dict[str, Any] = {"account_id": account, "session_hash": viewer.session_hash}
        if call != "export_personal_data":
            more["reason"] = "a test"
        assert web.refusal(call, **more).slug == "admin_role_required"
        assert dba.refusal(call, **{**more, "session_hash": None, "account_id": NOBODY}).slug == (
            "account_not_found"
        )
    assert _export(web, account, session_hash=admin.session_hash)["credits"]
    (row,) = dba.rows("list_audit_log", action="account.export", resource_id=str(account))
    assert (row["who"], row["changes"]) == (admin.email, None)
    with session(module_database, "t_analyst") as analyst:
        assert analyst.refusal("export_personal_data", account_id=account).sqlstate == "42501"


def test_an_erased_person_is_nowhere_and_the_books_agree(
    module_database: Database, planted: tuple[UUID, str]
) -> None:
    account, mark = planted
    assert dump_of(module_database).count(mark) > 40
    money = (
        "SELECT (SELECT sum(amount_minor) FROM billing_data.charges),"
        " (SELECT sum(price_minor) FROM billing_data.purchases),"
        " (SELECT array_agg(created_at ORDER BY id) FROM billing_data.charges)"
    )
    before = module_database.execute(money)
    with session(module_database, "t_dba") as dba:
        foretold = _erase(dba, account, dry_run=True)
        assert mark in dump_of(module_database)
        assert _erase(dba, account) == foretold
        assert foretold.keys() >= {
            "account_notes", "accounts", "admin_audit_logs", "account_requests", "batch_requests",
            "charges_and_credits", "credit_checks", "outbox", "payment_effects", "payment_events",
            "payment_refunds", "payment_returns", "payment_warnings", "purchases",
            "refused_charges", "top_ups",
        }  # fmt: skip
        assert mark not in dump_of(module_database)
        assert _erase(dba, account) == {}
        (logged,) = dba.rows("list_audit_log", action="account.erase", resource_id=str(account))
    assert (logged["reason"], logged["changes"]) == ("asked for", foretold)
    assert module_database.execute(money) == before
    assert ledger_problems(module_database) == []
    assert module_database.value(
        "SELECT payload #>> '{data,object,amount_received}' FROM billing_data.payment_events"
        " WHERE account_id = %s AND event_type = 'payment_intent.succeeded'", account,
    ) == str(PRICE)  # fmt: skip


def test_an_account_with_credits_or_open_problems_is_erased_only_by_force(
    database: Database,
) -> None:
    configure_provider(database)
    who, payment_id = bought(database)
    account = account_of(database, who)["id"]
    with session(database, "t_dba") as dba:
        warn(dba, payment_id, "issfr_1")
        refusal = dba.refusal("erase_personal_data", account_id=account, reason="asked for")
        assert (refusal.slug, refusal.detail["problem"]) == (
            "account_in_use", "20 paid credits and 1 open payment problem",
        )  # fmt: skip
        foretold = dba.rows(
            "erase_personal_data", account_id=account, reason="asked for", dry_run=True
        )
        assert {row["obstacle"] for row in foretold} == {refusal.detail["problem"]}
        assert account_of(database, who)["paid_credits"] == 20
        assert _erase(dba, account, force=True)["credits_given_up"] == 20
        assert [row["problem"] for row in problems_of(dba, payment_id)] == ["fraud_warning"]
        # The identity comes again as somebody new.
        assert dba.row("check_credit", **who)["credits_remaining"] == 0
        assert account_of(database, who)["id"] != account
    assert ledger_problems(database) == []


def test_a_reason_that_names_the_person_is_refused(module_database: Database, dba: Caller) -> None:
    who = person(unique("ada.lovelace"))
    dba.row("create_account", **who, customer_email="Ada.L@example.com")
    account = account_of(module_database, who)["id"]
    for reason in (f"it is {who['external_id'].upper()}", "write to ada.l@EXAMPLE.com", " "):
        refusal = dba.refusal("erase_personal_data", account_id=account, reason=reason)
        assert refusal.slug == "invalid_argument"
    assert account_of(module_database, who)["customer_email"] == "Ada.L@example.com"


def test_a_payment_that_arrives_later_is_kept_for_a_person_and_brings_nobody_back(
    database: Database,
) -> None:
    configure_provider(database)
    who, email = person(unique("ada.lovelace")), f"{unique('ada')}@example.com"
    payment_id, event_id = unique("pi"), unique("evt")
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        purchase = begin(dba, who, customer_email=email)
        attach(dba, purchase, payment_id)
        other = begin(dba, who, customer_email=email)  # its payment was not recorded
        account = purchase["account_id"]
        _erase(dba, account)
        payload = json.dumps({"data": {"object": {"email": email, **who}}})
        for event, payment, sale in (
            (event_id, payment_id, purchase), (unique("evt"), unique("pi"), other),
        ):  # fmt: skip
            paid = deliver(web, event, payment, sale, payload=payload, **who)
            assert (paid["outcome"], paid["account_id"]) == ("credited", account)
            (problem,) = problems_of(dba, payment)
            assert problem["problem"] == "paid_after_erasure"
            again = deliver(web, event, payment, sale, payload=payload, **who)
            assert again["outcome"] == "credited"
        assert event_of(database, event_id)["payload"]["erased"]
        dump = dump_of(database)
        assert email not in dump
        assert who["external_id"] not in dump
        # What was paid since is there for a refund, and is not given up by erasing once more.
        assert _erase(dba, account) == {"charges_and_credits": 2}
        given_back = give_back(web, payment_id, (unique("re"), PRICE))
        assert given_back["outcome"] == "taken_back"
    assert ledger_problems(database) == []


def test_a_charge_and_an_event_that_wait_for_the_erasing_find_nobody_or_the_erased_account(
    database: Database,
) -> None:
    configure_provider(database)
    who = new_user(database, free=True)
    payment_id = unique("pi")
    account = account_of(database, who)["id"]
    answers: dict[str, Any] = {}
    with session(database, "t_dba", autocommit=False) as eraser:
        with session(database, "t_dba") as dba:
            attach(dba, begin(dba, who), payment_id)
        _erase(eraser, account)
        with session(database, "t_dba") as charger, session(database, "t_web") as teller:
            calls = {
                "charge": lambda: charge_all(charger, [{**who}])[0]["outcome"],
                "event": lambda: deliver(teller, unique("evt"), payment_id)["outcome"],
            }
            threads = [
                threading.Thread(target=lambda n=name, c=call: answers.update({n: c()}))
                for name, call in calls.items()
            ]
            for thread in threads:
                thread.start()
            wait_for(
                lambda: is_blocked(database, charger) and is_blocked(database, teller),
                "a wait for the account",
            )
            eraser.connection.commit()
            for thread in threads:
                thread.join(60)
    assert answers == {"charge": "account_not_found", "event": "credited"}
    with session(database, "t_dba") as dba:
        assert [row["problem"] for row in problems_of(dba, payment_id)] == ["paid_after_erasure"]
    assert ledger_problems(database) == []


def test_an_erasing_waits_for_a_charge_and_takes_it_along(database: Database) -> None:
    who = new_user(database)
    account = account_of(database, who)["id"]
    mark = unique("m4rk")
    with (
        session(database, "t_dba", autocommit=False) as charger,
        session(database, "t_dba") as eraser,
    ):
        charger.row("create_charge", **who, description=mark)
        done: list[dict[str, int]] = []
        thread = threading.Thread(target=lambda: done.append(_erase(eraser, account)))
        thread.start()
        wait_for(lambda: is_blocked(database, eraser), "a wait for the account")
        charger.connection.commit()
        thread.join(60)
    assert done[0]["charges_and_credits"] == 1
    assert mark not in dump_of(database)
    assert ledger_problems(database) == []


def test_an_agent_that_takes_the_name_of_the_erased_prevents_no_erasing(
    module_database: Database, dba: Caller
) -> None:
    account = account_of(module_database, new_user(module_database))["id"]
    dba.row("create_account", oauth_provider="oauth:erased", external_id=str(account))
    assert _erase(dba, account)["accounts"] == 1
    erased = dba.row("get_account_by_id", account_id=account)
    assert erased["oauth_provider"] == "oauth:erased"
    assert erased["external_id"] != str(account)
    # Erased once more, it keeps the identity that it has.
    assert _erase(dba, account) == {}
    assert dba.row("get_account_by_id", account_id=account)["external_id"] == erased["external_id"]


def test_an_erased_account_stays_as_it_is(module_database: Database) -> None:
    who, key = new_user(module_database, paid=9, free=False), key_id(module_database)
    account = account_of(module_database, who)["id"]
    other = account_of(module_database, new_user(module_database, paid=1))["id"]
    with session(module_database, "t_dba") as dba, session(module_database, "t_web") as web:
        charge = web.row("create_charge", **who, amount_minor=5, api_key_id=key)
        give_back = {
            "charge_id": charge["charge_id"], "amount": 2, "reason": f"for {who['external_id']}",
            "idempotency_key": "once",
        }  # fmt: skip
        agent = {**give_back, "api_key_id": key}
        assert web.row("reverse_charge", **agent)["balance_after"] == 6
        _erase(dba, account, force=True)
        # The key of the first call is forgotten: a repeat must not give back a second time.
        assert web.refusal("reverse_charge", **agent).slug == "charge_not_found"
        before = _row(module_database, account)
        (given_up,) = module_database.execute(
            "SELECT id FROM billing_data.credits WHERE account_id = %s AND amount_minor = -6",
            account,
        )
        identity = {name: before[name] for name in ("oauth_provider", "external_id")}
        because = {"reason": "a mistake"}
        for function, arguments in (
            ("reverse_charge", give_back),
            ("reverse_credit", {"credit_id": given_up[0]}),
            ("adjust_credits", {"account_id": account, "amount": 1}),
            ("reset_free_uses", {"account_id": account, "free_uses": 1}),
            ("set_account_status", {**identity, "status": "active"}),
            ("merge_accounts", {"account_id": other, "into_account_id": account}),
            ("merge_accounts", {"account_id": account, "into_account_id": other}),
            (
                "transfer_credits",
                {"from_account_id": other, "to_account_id": account, "amount": 1},
            ),
        ):
            refusal = dba.refusal(function, **{**because, **arguments})
            assert (refusal.slug, refusal.detail) == (
                "account_erased", {"account_id": str(account)},
            ), function  # fmt: skip
        assert _row(module_database, account) == before
    assert who["external_id"] not in dump_of(module_database)
    assert ledger_problems(module_database) == []


def test_merged_accounts_are_one_person(database: Database) -> None:
    who, other = new_user(database, paid=2), new_user(database)
    account, gone = (account_of(database, one)["id"] for one in (who, other))
    with session(database, "t_dba") as dba:
        dba.rows("merge_accounts", account_id=gone, into_account_id=account, reason="one person")
        document = dba.value("export_personal_data", account_id=gone)
        assert document["account_id"] == str(account)
        assert {row["id"] for row in document["tables"]["accounts"]} == {str(account), str(gone)}
        counts = {
            row["table_name"]: row["rows_erased"]
            for row in dba.rows(
                "erase_personal_data", account_id=gone, reason="asked for", force=True
            )
        }
        assert (counts["accounts"], counts["credits_given_up"]) == (2, 2)
        assert dba.row("get_account_by_id", account_id=gone)["oauth_provider"] == "oauth:erased"
    dump = dump_of(database)
    assert who["external_id"] not in dump
    assert other["external_id"] not in dump
    assert ledger_problems(database) == []


def test_withdrawn_consent_is_not_given_again_by_what_an_agent_goes_on_sending(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who = person()
    key = key_id(module_database)
    agreed = {"marketing_opt_in": True, "marketing_opt_in_source": "form"}
    dba.row("check_credit", **who, **agreed)
    account = account_of(module_database, who)
    assert account["marketing_opt_in"]
    withdrawn = dba.row("withdraw_consent", **who, reason="asked by e-mail")
    assert withdrawn["changed"]
    assert withdrawn["account_id"] == account["id"]
    for _ in range(2):
        dba.row("check_credit", **who, **agreed)
        charge_all(web, [{**who, **agreed, "api_key_id": key}])
        after = account_of(module_database, who)
        assert not after["marketing_opt_in"]
        assert (after["marketing_opt_in_at"], after["marketing_opt_in_source"]) == (None, None)
    assert not dba.row("withdraw_consent", account_id=account["id"], reason="again")["changed"]
    (logged,) = dba.rows("list_audit_log", action="account.withdraw_consent",
                         resource_id=str(account["id"]))  # fmt: skip
    assert logged["changes"]["had_opted_in"]
    assert "form" not in json.dumps(logged["changes"])
    undone = dba.row("withdraw_consent", **who, reason="agreed in writing", undo=True)
    assert undone["changed"]
    assert undone["withdrawn_at"] is None
    assert not account_of(module_database, who)["marketing_opt_in"]
    dba.row("check_credit", **who, **agreed)
    assert account_of(module_database, who)["marketing_opt_in"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"oauth_provider": "oauth:google"},
        {"external_id": "1"},
        {"account_id": NOBODY, "oauth_provider": "oauth:google", "external_id": "1"},
        {"account_id": NOBODY, "undo": None},
    ],
)
def test_consent_is_withdrawn_for_one_account_or_one_identity(
    dba: Caller, wrong: dict[str, Any]
) -> None:
    assert dba.refusal("withdraw_consent", reason="a test", **wrong).slug == "invalid_argument"


def test_an_audit_row_changes_only_into_its_erased_form(database: Database) -> None:
    who = new_user(database)
    with session(database, "t_dba") as dba, session(database, "postgres") as root:
        dba.row("set_account_status", **who, status="suspended", reason="ada is gone")
        erase = (
            "UPDATE billing_data.admin_audit_logs AS l SET reason = f.reason, changes = f.changes,"
            " resource_id = f.resource_id FROM billing_data.admin_audit_logs AS o CROSS JOIN"
            " LATERAL billing_data.erased_audit_log(o) AS f"
            " WHERE o.id = l.id AND o.action = 'account.set_status'"
        )
        assert root.refused(erase).slug == "append_only"
        root.execute(
            "INSERT INTO billing_data.erased_audit_logs SELECT id, now()"
            " FROM billing_data.admin_audit_logs"
        )
        for change in (
            "reason = 'mine'",
            "reason = NULL",
            "action = 'x'",
            "created_at = now()",
        ):
            statement = (
                f"UPDATE billing_data.admin_audit_logs SET {change}"
                " WHERE action = 'account.set_status'"
            )
            assert root.refused(statement).slug == "append_only", change
        root.execute(erase)
        (row,) = dba.rows("list_audit_log", action="account.set_status")
    assert row["reason"] == "erased"
    assert row["changes"] == {"before": "active", "after": "suspended"}


def test_what_a_check_under_way_left_behind_is_erased_by_maintenance(database: Database) -> None:
    configure_provider(database)
    who = new_user(database)
    account = account_of(database, who)["id"]
    with (
        session(database, "t_dba", autocommit=False) as checker,
        session(database, "t_dba") as dba,
    ):
        checker.row("check_credit", **who)
        _erase(dba, account)
        checker.connection.commit()
        assert who["external_id"] in dump_of(database)
        (step,) = dba.rows("maintenance", steps=["erased people"])
        assert step["detail"] == "1 rows were left behind and are erased"
        assert who["external_id"] not in dump_of(database)


def test_checks_in_the_default_partition_are_erased_too(database: Database) -> None:
    who = new_user(database)
    account = account_of(database, who)["id"]
    old = datetime.now(UTC) - timedelta(days=4000)
    for owner in (account, None):  # the second one as the old service left it
        database.execute(
            "INSERT INTO billing_data.credit_checks (id, account_id, oauth_provider, external_id,"
            " has_credit, created_at) VALUES (gen_random_uuid(), %s, %s, %s, true, %s)",
            owner, who["oauth_provider"], who["external_id"], old,
        )  # fmt: skip
    with session(database, "t_dba") as dba:
        assert len(_export(dba, account)["credit_checks"]) == 3
        assert _erase(dba, account)["credit_checks"] == 3
    assert who["external_id"] not in dump_of(database)
