"""`ciris-billing accounts find|show|suspend|reactivate|reverse`: finding an account, what happened
to it and why it is as it is, and correcting it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from server.cli.database import call_function
from server.cli.output import on_one_line, print_result, print_rows, print_table
from server.cli.parser import idempotency_key
from server.timeline_words import KINDS, reason_told, told

ACCOUNT_HELP = "an account id, provider:external id (oauth:google:ada), or an e-mail address"
_ACCOUNT = "SELECT a.* FROM billing.get_account_by_id(billing.find_account(%(account)s)) AS a"


def add_actions(actions: Any) -> None:
    """Adds the sub-commands."""
    find = actions.add_parser(
        "find",
        help="find accounts by the beginning or a part of an address or id (exit 1: none)",
        description="Accounts whose e-mail address or external id begins with TEXT; where none"
        " does, those that contain it. An account id finds its account.",
    )
    find.add_argument("text", metavar="TEXT")
    find.add_argument("--status", choices=("active", "suspended", "closed", "merged"))
    find.add_argument("--limit", type=int, default=20, metavar="N", help="1 to 500 (20)")
    find.set_defaults(run=_find)

    show = actions.add_parser(
        "show", help="what an account has, why it is as it is, and what happened last"
    )
    show.add_argument("account", metavar="ACCOUNT", help=ACCOUNT_HELP)
    show.add_argument("--kind", choices=tuple(KINDS), help="only what happened of this kind")
    show.add_argument("--limit", type=int, default=10, metavar="N", help="1 to 500 (10)")
    show.set_defaults(run=_show)

    for name, status, words in (
        ("suspend", "suspended", "let an account not be charged until it is reactivated"),
        ("reactivate", "active", "let an account be charged again"),
    ):
        change = actions.add_parser(name, help=words)
        change.add_argument("account", metavar="ACCOUNT", help=ACCOUNT_HELP)
        change.set_defaults(run=_set_status, status=status)
        _add_reason(change)

    reverse = actions.add_parser(
        "reverse",
        help="give a charge back, or take a grant back",
        description="A charge is given back to what paid for it. Without --amount, all that is left"
        " of the entry is reversed. A credit of a payment is not reversed: refund the payment.",
    )
    reverse.add_argument("entry", type=UUID, metavar="ENTRY", help="the id of a charge or credit")
    reverse.add_argument("--amount", type=int, metavar="N", help="credits (all that is left)")
    reverse.add_argument("--dry-run", action="store_true", help="say what would be reversed")
    reverse.add_argument(
        "--key",
        type=idempotency_key,
        help="an idempotency key: the same call again changes nothing",
    )
    reverse.set_defaults(run=_reverse)
    _add_reason(reverse)

    for action in (find, show, reverse):
        action.add_argument("--json", action="store_true", help="print JSON")


def _add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, help="why, for the audit log")
    if not parser.prog.endswith("reverse"):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _find(options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    for match in ("prefix", "substring"):
        rows = call_function(
            "SELECT * FROM billing.list_accounts(p_search => %(text)s, p_status => %(status)s,"
            " p_match => %(match)s, p_limit => %(limit)s)",
            text=options.text,
            status=options.status,
            match=match,
            limit=options.limit,
        )
        if rows:
            break
    headings = {
        "account_id": "ACCOUNT",
        "identity": "IDENTITY",
        "customer_email": "E-MAIL",
        "status": "STATUS",
        "paid_credits": "CREDITS",
        "free_uses_remaining": "FREE",
        "total_uses": "USES",
    }
    shown = [
        {**row, "identity": on_one_line(f"{row['oauth_provider']}:{row['external_id']}")}
        for row in rows
    ]
    print_rows(
        rows if options.json else shown, headings, "No account matches.", as_json=options.json
    )
    return 0 if rows else 1


def _show(options: argparse.Namespace) -> int:
    [account] = call_function(_ACCOUNT, account=options.account)
    account_id = account["account_id"]
    states = call_function(
        "SELECT * FROM billing.explain_account(p_account_id => %(id)s)", id=account_id
    )
    notes = call_function("SELECT * FROM billing.list_notes(p_account_id => %(id)s)", id=account_id)
    timeline = [
        row
        for row in call_function(
            "SELECT * FROM billing.list_timeline(p_account_id => %(id)s, p_kinds => %(kinds)s,"
            " p_limit => %(limit)s)",
            id=account_id,
            kinds=[options.kind] if options.kind else None,
            limit=options.limit,
        )
        if row["kind"] is not None
    ]
    found = {"account": account, "states": states, "notes": notes, "timeline": timeline}
    print_result(found, *_told(account, states, notes), as_json=options.json)
    if not options.json:
        print()
        _print_timeline(timeline)
    return 0


def _told(
    account: Mapping[str, Any], states: list[dict[str, Any]], notes: list[dict[str, Any]]
) -> list[str]:
    name = account["customer_email"] or account["external_id"]
    lines = [
        f"{on_one_line(name)} ({account['oauth_provider']}:{on_one_line(account['external_id'])})",
        f"Account {account['account_id']}, {account['status']}",
        f"{account['paid_credits']:,} paid credits and {account['free_uses_remaining']:,} free"
        f" uses; {account['total_uses']:,} uses in all",
    ]
    for state in states:
        lines += ["", on_one_line(state["sentence"], 1000), f"  {state['what_helps']}"]
    for note in notes:
        lines += ["", f"Note of {note['who']}, {_moment(note['created_at'])}:"]
        lines += [f"  {on_one_line(line, 2000)}" for line in note["note"].splitlines()]
    return lines


def _print_timeline(rows: list[dict[str, Any]]) -> None:
    shown = [
        {
            "at": _moment(row["at"]),
            "what": on_one_line(told(row)),
            "credits": row["credits_change"] or None,
            "balance": row["balance_after"],
            "writer": on_one_line(row["writer"] or ""),
            "why": on_one_line(reason_told(row)),
            "id": row["id"],
        }
        for row in rows
    ]
    headings = {
        "at": "WHEN",
        "what": "WHAT",
        "credits": "CREDITS",
        "balance": "BALANCE",
        "writer": "BY",
        "why": "WHY",
        "id": "ID",
    }
    print_table(shown, headings, "Nothing happened yet.")


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _set_status(options: argparse.Namespace) -> int:
    [row] = call_function(
        "SELECT s.* FROM billing.get_account_by_id(billing.find_account(%(account)s)) AS a"
        " CROSS JOIN LATERAL billing.set_account_status(p_oauth_provider => a.oauth_provider,"
        " p_external_id => a.external_id, p_status => %(status)s, p_reason => %(reason)s) AS s",
        account=options.account,
        status=options.status,
        reason=options.reason,
    )
    if row["previous_status"] == row["status"]:
        words = f"The account was {row['status']} already. Nothing was changed."
    else:
        words = f"The account was {row['previous_status']} and is {row['status']} now."
    print_result(row, words, as_json=options.json)
    return 0


def _reverse(options: argparse.Namespace) -> int:
    [entry] = call_function(
        "SELECT * FROM billing.find_entry(p_transaction_id => %(entry)s)", entry=options.entry
    )
    arguments = {
        "entry": options.entry,
        "reason": options.reason,
        "amount": options.amount,
        "key": options.key,
        "dry": options.dry_run,
    }
    if entry["type"] == "charge":
        [row] = call_function(
            "SELECT * FROM billing.reverse_charge(p_charge_id => %(entry)s, p_reason => %(reason)s,"
            " p_amount => %(amount)s, p_idempotency_key => %(key)s, p_dry_run => %(dry)s)",
            **arguments,
        )
    else:
        [row] = call_function(
            "SELECT * FROM billing.reverse_credit(p_credit_id => %(entry)s, p_reason => %(reason)s,"
            " p_amount => %(amount)s, p_idempotency_key => %(key)s, p_dry_run => %(dry)s)",
            **arguments,
        )
    print_result(row, _reversed(entry["type"], row, dry=options.dry_run), as_json=options.json)
    return 0


def _reversed(kind: str, row: Mapping[str, Any], *, dry: bool) -> str:
    if row.get("free_uses"):
        after = (
            f"a free use {'would be' if dry else 'is'} back, {row['free_uses_remaining']:,} left"
        )
    else:
        after = (
            f"the balance {'is' if dry else 'was'} {row['balance_before']:,} and"
            f" {'would be' if dry else 'is'} {row['balance_after']:,}{'' if dry else ' now'}"
        )
    if row["replayed"]:
        return f"This was done before, and was not done again: {after}."
    if dry:
        return f"Nothing was changed. The {kind} would be reversed: {after}."
    return f"The {kind} was reversed: {after}."
