"""`ciris-billing payments`: finds and refunds payments, lists those that need a person, and records
what a person did."""

from __future__ import annotations

import argparse
from typing import Any, LiteralString
from uuid import UUID

from server.cli import refunds
from server.cli.database import call_function
from server.cli.output import print_result, print_rows


def add_parser(commands: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = commands.add_parser("payments", help="find, refund and resolve payments")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    refunds.add_actions(actions)

    problems = actions.add_parser("problems", help="list what needs a person, newest first")
    problems.set_defaults(run=_problems)

    resolve = actions.add_parser(
        "resolve",
        help="say how a payment that was not credited was dealt with",
        description="From then on no event and no reconciliation credits the payment. A refund that"
        " comes later takes back from the credit named by --credit.",
    )
    resolve.add_argument("payment_id")
    resolve.add_argument("--how", choices=("credited", "refunded", "other"), required=True)
    resolve.add_argument(
        "--credit", type=UUID, metavar="ID", help="the credit given by hand for it"
    )
    resolve.add_argument(
        "--amount-minor", type=int, metavar="N", help="what was paid, where no stored event has it"
    )
    resolve.add_argument("--currency", help="the currency of that amount")
    resolve.set_defaults(run=_resolve)

    reopen = actions.add_parser("reopen", help="take a resolution of a payment back")
    reopen.add_argument("payment_id")
    reopen.set_defaults(run=_reopen)

    warning = actions.add_parser(
        "resolve-warning", help="close a report of fraud or a second credit for a payment"
    )
    warning.add_argument("warning_id")
    warning.set_defaults(run=_resolve_warning)

    for action in (resolve, reopen, warning):
        action.add_argument("--reason", required=True, help="goes into the audit log")
    for action in (problems, resolve, reopen, warning):
        action.add_argument("--json", action="store_true", help="print JSON")


def _problems(options: argparse.Namespace) -> int:
    rows = call_function("SELECT * FROM billing.list_payment_problems(p_limit => 500)")
    headings = {
        "happened_at": "WHEN",
        "problem": "PROBLEM",
        "reference": "REFERENCE",
        "payment_id": "PAYMENT",
        "account_id": "ACCOUNT",
        "what_is_wrong": "WHAT IS WRONG",
    }
    print_rows(rows, headings, "Nothing needs a person.", as_json=options.json)
    return 0


def _resolve(options: argparse.Namespace) -> int:
    return _done(
        options,
        "SELECT billing.resolve_payment(p_payment_id => %(payment_id)s, p_how => %(how)s,"
        " p_reason => %(reason)s, p_credit_id => %(credit)s, p_amount_minor => %(amount)s,"
        " p_currency => %(currency)s)",
        f"{options.payment_id} is resolved: {options.how}",
        payment_id=options.payment_id,
        how=options.how,
        credit=options.credit,
        amount=options.amount_minor,
        currency=options.currency,
    )


def _reopen(options: argparse.Namespace) -> int:
    return _done(
        options,
        "SELECT billing.reopen_payment(p_payment_id => %(payment_id)s, p_reason => %(reason)s)",
        f"{options.payment_id} is open again",
        payment_id=options.payment_id,
    )


def _resolve_warning(options: argparse.Namespace) -> int:
    return _done(
        options,
        "SELECT billing.resolve_payment_warning(p_warning_id => %(warning_id)s,"
        " p_reason => %(reason)s)",
        f"{options.warning_id} is resolved",
        warning_id=options.warning_id,
    )


def _done(
    options: argparse.Namespace, statement: LiteralString, words: str, **arguments: Any
) -> int:
    call_function(statement, reason=options.reason, **arguments)
    done = {name: value for name, value in arguments.items() if value is not None}
    print_result(done, words, as_json=options.json)
    return 0
