"""`ciris-billing keys`: create, list, rotate and revoke API keys."""

from __future__ import annotations

import argparse
from typing import Any

from server.cli.database import call_function
from server.cli.output import CommandFailed, print_result, print_rows

_PERMISSIONS = ["billing:read", "billing:write"]


def add_parser(commands: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = commands.add_parser("keys", help="create, list, rotate and revoke API keys")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    create = actions.add_parser("create", help="create a key; its secret is shown once")
    create.add_argument("name", help="whose key it is, for people")
    create.add_argument("--environment", choices=("test", "live"), default="live")
    create.add_argument(
        "--permission",
        action="append",
        metavar="PERMISSION",
        help=f"give it once for each (default: {' and '.join(_PERMISSIONS)})",
    )
    create.add_argument("--expires-in-days", type=int, metavar="N", help="1 to 3650")
    create.add_argument("--description", help="what it is for; the audit log's reason too")
    create.set_defaults(run=_create)

    listing = actions.add_parser("list", help="list keys, newest first; never a secret")
    listing.add_argument("--environment", choices=("test", "live"))
    listing.add_argument("--status", choices=("active", "rotating", "revoked"))
    listing.set_defaults(run=_list)

    rotate = actions.add_parser("rotate", help="replace a key; the old one works 24 hours more")
    rotate.add_argument("key", metavar="ID_OR_PREFIX", help="the key's id or first 20 characters")
    rotate.add_argument("--reason", help="why, for the audit log")
    rotate.set_defaults(run=_rotate)

    revoke = actions.add_parser("revoke", help="end a key from the next request on")
    revoke.add_argument("key", metavar="ID_OR_PREFIX", help="the key's id or first 20 characters")
    revoke.add_argument("--reason", help="why, for the audit log")
    revoke.set_defaults(run=_revoke)

    for action in (create, listing, rotate, revoke):
        action.add_argument("--json", action="store_true", help="print JSON")


def create_key(name: str, environment: str = "live", **options: Any) -> dict[str, Any]:
    """Creates a key. Returns its row with `plaintext_key`, which is stored nowhere."""
    from server.api_key_secret import new_secret

    secret = new_secret(environment)
    rows = call_function(
        "SELECT * FROM billing.create_api_key(p_name => %(name)s, p_key_prefix => %(prefix)s,"
        " p_key_hash => %(hash)s, p_environment => %(environment)s,"
        " p_permissions => %(permissions)s, p_description => %(description)s,"
        " p_expires_in_days => %(days)s, p_key_digest => %(digest)s)",
        name=name,
        prefix=secret.prefix,
        hash=secret.hash,
        digest=secret.digest,
        environment=environment,
        permissions=options.get("permissions") or _PERMISSIONS,
        description=options.get("description"),
        days=options.get("expires_in_days"),
    )
    return {**rows[0], "plaintext_key": secret.plaintext}


def _create(options: argparse.Namespace) -> int:
    key = create_key(
        options.name,
        options.environment,
        permissions=options.permission,
        description=options.description,
        expires_in_days=options.expires_in_days,
    )
    print_result(
        key,
        f"Key:         {key['plaintext_key']}",
        "             (shown this once: store it now)",
        f"Id:          {key['api_key_id']}",
        f"Permissions: {', '.join(key['permissions'])}",
        f"Expires:     {key['expires_at'] or 'never'}",
        as_json=options.json,
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    rows = call_function(
        "SELECT * FROM billing.list_api_keys(p_environment => %(environment)s,"
        " p_status => %(status)s)",
        environment=options.environment,
        status=options.status,
    )
    headings = {
        "api_key_id": "ID",
        "name": "NAME",
        "key_prefix": "PREFIX",
        "environment": "ENV",
        "status": "STATUS",
        "permissions": "PERMISSIONS",
        "expires_at": "EXPIRES",
        "last_used_at": "LAST USED",
    }
    print_rows(rows, headings, "No keys yet: ciris-billing keys create NAME", as_json=options.json)
    return 0


def _rotate(options: argparse.Namespace) -> int:
    from server.api_key_secret import new_secret

    old = _find(options.key)
    secret = new_secret(old["environment"])
    rows = call_function(
        "SELECT * FROM billing.rotate_api_key(p_api_key_id => %(id)s, p_key_prefix => %(prefix)s,"
        " p_key_hash => %(hash)s, p_key_digest => %(digest)s, p_reason => %(reason)s)",
        id=old["api_key_id"],
        prefix=secret.prefix,
        hash=secret.hash,
        digest=secret.digest,
        reason=options.reason,
    )
    key = {**rows[0], "plaintext_key": secret.plaintext}
    print_result(
        key,
        f"New key: {key['plaintext_key']}",
        "         (shown this once: store it now)",
        f"Id:      {key['api_key_id']}",
        f"The old key works until {key['old_key_expires_at'].isoformat(timespec='seconds')}",
        as_json=options.json,
    )
    return 0


def _revoke(options: argparse.Namespace) -> int:
    old = _find(options.key)
    rows = call_function(
        "SELECT * FROM billing.revoke_api_key(p_api_key_id => %(id)s, p_reason => %(reason)s)",
        id=old["api_key_id"],
        reason=options.reason,
    )
    key = rows[0]
    print_result(key, f"Revoked {key['key_prefix']}... ({key['name']})", as_json=options.json)
    return 0


def _find(id_or_prefix: str) -> dict[str, Any]:
    rows = call_function("SELECT * FROM billing.list_api_keys()")
    for row in rows:
        if id_or_prefix in (str(row["api_key_id"]), row["key_prefix"]):
            return row
    raise CommandFailed(f"API key not found: {id_or_prefix[:36]} (see `ciris-billing keys list`)")
