"""`ciris-billing admins`: adds and lists staff, makes sign-in links for `dev` and bearer tokens for
scripts."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from datetime import UTC, datetime
from typing import Any

from server.cli.database import call_function
from server.cli.output import CommandFailed, print_result, print_rows
from server.cli.running_dev import find_running_dev
from server.config import load_admin_jwt_secret


def add_parser(commands: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = commands.add_parser("admins", help="add and list staff, make a token for scripts")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    add = actions.add_parser("add", help="add a staff member, or change their role")
    add.add_argument("email", help="an address at the staff domain (ADMIN_EMAIL_DOMAIN)")
    add.add_argument("--name", help="full name (default: the address's first part)")
    add.add_argument("--role", choices=("admin", "viewer"), default="viewer")
    add.set_defaults(run=_add)

    listing = actions.add_parser("list", help="list staff")
    listing.set_defaults(run=_list)

    token = actions.add_parser("token", help="print a bearer token, valid for 24 hours")
    token.add_argument("email", help="an active staff member")
    token.set_defaults(run=_token)

    link = actions.add_parser(
        "link", help="print a link that signs a staff member in to the running `dev`, once"
    )
    link.add_argument("email", help="an active staff member")
    link.set_defaults(run=_link)

    sign_out = actions.add_parser("logout", help="end all sessions and tokens of a staff member")
    sign_out.add_argument("email", help="a staff member")
    sign_out.add_argument("--reason", required=True, help="why, for the audit log")
    sign_out.set_defaults(run=_sign_out)

    invite = actions.add_parser(
        "invite", help="let an administrator sign in with another account, within seven days"
    )
    invite.add_argument("email", help="an active administrator")
    invite.add_argument("--reason", required=True, help="why, for the audit log")
    invite.set_defaults(run=_invite)

    for name, is_active, words in (
        ("deactivate", False, "end a staff member's access, with all sessions and tokens"),
        ("activate", True, "let a deactivated staff member sign in again"),
    ):
        change = actions.add_parser(name, help=words)
        change.add_argument("email", help="a staff member")
        change.add_argument("--reason", required=True, help="why, for the audit log")
        change.add_argument("--json", action="store_true", help="print JSON")
        change.set_defaults(run=_set_active, is_active=is_active)

    for action in (add, listing, token, link, sign_out, invite):
        action.add_argument("--json", action="store_true", help="print JSON")


def _add(options: argparse.Namespace) -> int:
    row = call_function(
        "SELECT * FROM billing.add_admin(p_email => %(email)s, p_full_name => %(name)s,"
        " p_role => %(role)s)",
        email=options.email,
        name=options.name,
        role=options.role,
    )[0]
    print_result(
        row, f"{row['email']} is {row['role']} ({row['admin_user_id']})", as_json=options.json
    )
    return 0


def _set_active(options: argparse.Namespace) -> int:
    row = call_function(
        "SELECT * FROM billing.set_admin(p_email => %(email)s, p_is_active => %(is_active)s,"
        " p_reason => %(reason)s)",
        email=options.email,
        is_active=options.is_active,
        reason=options.reason,
    )[0]
    state = "may sign in" if row["is_active"] else "is deactivated"
    print_result(row, f"{row['email']} ({row['role']}) {state}", as_json=options.json)
    return 0


def _list(options: argparse.Namespace) -> int:
    rows = call_function("SELECT * FROM billing.list_admins()")
    headings = {
        "email": "EMAIL",
        "full_name": "NAME",
        "role": "ROLE",
        "is_active": "ACTIVE",
        "last_login_at": "LAST SIGN-IN",
    }
    print_rows(
        rows,
        headings,
        "No staff yet: ciris-billing admins add EMAIL --role admin",
        as_json=options.json,
    )
    return 0


def _token(options: argparse.Namespace) -> int:
    from server.staff.admin_token import hashed, issue_token

    secret = load_admin_jwt_secret(os.environ)
    admin = call_function(
        "SELECT * FROM billing.get_admin(p_email => %(email)s)", email=options.email
    )[0]
    token = issue_token(
        secret, str(admin["admin_user_id"]), admin["email"], admin["role"], datetime.now(UTC)
    )
    known = call_function(
        "SELECT * FROM billing.create_staff_token(p_token_hash => %(hash)s, p_email => %(email)s)",
        hash=hashed(token),
        email=options.email,
    )[0]
    print_result({"token": token, "expires_at": known["expires_at"]}, token, as_json=options.json)
    return 0


def create_sign_in_link(base_url: str, email: str) -> dict[str, Any]:
    """Makes a link that signs a staff member in once. Returns it and the time when it expires."""
    from server.staff.admin_token import hashed

    ticket = secrets.token_urlsafe(32)
    row = call_function(
        "SELECT billing.create_sign_in_link(p_email => %(email)s, p_ticket_hash => %(hash)s)"
        " AS expires_at",
        email=email,
        hash=hashed(ticket),
    )[0]
    return {"sign_in_url": f"{base_url}/admin/sign-in/{ticket}", **row}


def _link(options: argparse.Namespace) -> int:
    found = find_running_dev()
    if found is None:
        raise CommandFailed(
            "sign-in links are for `ciris-billing dev`, and none runs in this folder; `serve` signs"
            " staff in by Google (docs/staff.md)"
        )
    _, facts = found
    os.environ["DATABASE_URL"] = facts["dsn"]  # the database of that server, whatever else is set
    link = create_sign_in_link(facts["base_url"], options.email)
    print_result(link, link["sign_in_url"], as_json=options.json)
    if not options.json:
        print(
            f"(signs {options.email} in once, until {link['expires_at']:%H:%M %Z})", file=sys.stderr
        )
    return 0


def _invite(options: argparse.Namespace) -> int:
    row = call_function(
        "SELECT billing.invite_admin(p_email => %(email)s, p_reason => %(reason)s)"
        " AS invited_until",
        email=options.email,
        reason=options.reason,
    )[0]
    print_result(
        row,
        f"{options.email} can sign in until {row['invited_until']:%Y-%m-%d %H:%M %Z}",
        as_json=options.json,
    )
    return 0


def _sign_out(options: argparse.Namespace) -> int:
    row = call_function(
        "SELECT billing.end_staff_sessions(p_email => %(email)s, p_reason => %(reason)s) AS ended",
        email=options.email,
        reason=options.reason,
    )[0]
    print_result(
        row,
        f"{row['ended']} sessions and tokens of {options.email} have ended",
        as_json=options.json,
    )
    return 0
