"""`ciris-billing providers`: set up the payment provider, see what is set (masked), try it, encrypt
it anew. Secrets come from the environment or files, never from the command line, where others on
the machine could read them."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from datetime import datetime
from typing import Any

import orjson

from server.cli.database import call_function
from server.cli.output import CommandFailed, print_json, print_table
from server.config import ProviderConfig, load_provider_config
from server.encryption import Cipher, DecryptionFailed
from server.payments.settings import (
    InvalidSetting,
    ProviderSettings,
    open_settings,
    seal,
    seal_settings,
    unseal_all,
)

_PROVIDER = "stripe"


def add_parser(commands: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = commands.add_parser("providers", help="set up the payment provider, and try it")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="show what is set, secrets masked")
    listing.set_defaults(run=_list)

    setting = actions.add_parser(
        "set",
        help="set what the environment gives; the rest is kept",
        description="Reads STRIPE_API_KEY, STRIPE_WEBHOOK_SECRET and STRIPE_PUBLISHABLE_KEY, or"
        " the files that the same names with _FILE name, and stores them encrypted with"
        " ENCRYPTION_KEY. What is not given is kept.",
    )
    setting.add_argument("provider", choices=(_PROVIDER,))
    active = setting.add_mutually_exclusive_group()
    active.add_argument("--enable", action="store_true", default=None, help="sell")
    active.add_argument("--disable", dest="enable", action="store_false", help="stop selling")
    setting.add_argument("--reason", help="why, for the audit log")
    setting.set_defaults(run=_set)

    trying = actions.add_parser("test", help="ask the provider whether it accepts the API key")
    trying.set_defaults(run=_test)

    reencrypt = actions.add_parser(
        "reencrypt",
        help="encrypt the stored secrets with the newest key",
        description="After the newest key was put first in ENCRYPTION_KEY and every server has"
        " both: run this, then the old key can be taken away.",
    )
    reencrypt.set_defaults(run=_reencrypt)

    for action in (listing, setting, trying, reencrypt):
        action.add_argument("--json", action="store_true", help="print JSON")


def _list(options: argparse.Namespace) -> int:
    _print(call_function("SELECT * FROM billing.list_provider_configs()"), options)
    return 0


def _set(options: argparse.Namespace) -> int:
    config = load_provider_config(os.environ, need_keys=False)
    cipher = Cipher(config.encryption_keys) if config.encryption_keys else None
    try:
        sealed = seal_settings(options.provider, config.given, cipher)
    except InvalidSetting as error:
        raise CommandFailed(str(error)) from None
    if not sealed and options.enable is None:
        raise CommandFailed(
            "nothing to set: give STRIPE_API_KEY, STRIPE_WEBHOOK_SECRET or STRIPE_PUBLISHABLE_KEY"
            " (or NAME_FILE) in the environment, or --enable or --disable"
        )
    _print(_store(options.provider, sealed, options.enable, options.reason), options)
    return 0


def _test(options: argparse.Namespace) -> int:
    config = load_provider_config(os.environ)
    asyncio.run(_ask(stored_settings(config), config))
    if options.json:
        print_json({"provider": _PROVIDER, "accepted": True})
    else:
        print("Stripe accepts the API key.")
    return 0


def _reencrypt(options: argparse.Namespace) -> int:
    cipher = Cipher(load_provider_config(os.environ).encryption_keys)
    changed = []
    for listed in call_function("SELECT * FROM billing.list_provider_configs()"):
        provider = listed["provider_type"]
        stored = _stored(provider)
        try:
            secrets = unseal_all(stored["config_data"], cipher)
        except DecryptionFailed:
            raise CommandFailed(
                f"the secrets of {provider} were encrypted with a key that ENCRYPTION_KEY does not"
                " have: add that key after the newest one, or set the secrets again"
            ) from None
        sealed = {name: seal(value, cipher) for name, value in secrets.items()}
        changed += _store(
            provider, sealed, None, "encrypted with the newest key", stored["updated_at"]
        )
    _print(changed, options)
    return 0


def stored_settings(config: ProviderConfig) -> ProviderSettings:
    """Stripe's configuration as stored, decrypted. Raises CommandFailed when there is none or it
    cannot be."""
    settings = open_settings(_stored(_PROVIDER)["config_data"], Cipher(config.encryption_keys))
    if settings is None:
        raise CommandFailed(
            "the stored secrets were encrypted with a key that ENCRYPTION_KEY does not have"
        )
    if not settings.api_key:
        raise CommandFailed("Stripe has no API key yet: ciris-billing providers set stripe")
    return settings


def _stored(provider: str) -> dict[str, Any]:
    rows = call_function(
        "SELECT * FROM billing.get_provider_config(p_provider_type => %(provider)s)",
        provider=provider,
    )
    return rows[0] if rows else {"config_data": {}, "updated_at": None}


def _store(
    provider: str,
    sealed: dict[str, Any],
    active: bool | None,
    reason: str | None,
    unchanged_since: datetime | None = None,
) -> list[dict[str, Any]]:
    return call_function(
        "SELECT * FROM billing.set_provider_config(p_provider_type => %(provider)s,"
        " p_config_data => %(config)s, p_is_active => %(active)s, p_reason => %(reason)s,"
        " p_unchanged_since => %(unchanged_since)s)",
        provider=provider,
        config=orjson.dumps(sealed).decode(),
        active=active,
        reason=reason,
        unchanged_since=unchanged_since,
    )


async def _ask(settings: ProviderSettings, config: ProviderConfig) -> None:
    # Not before it is needed: `serve` says where its metrics are before anything imports them.
    from server.payments.stripe_api import PaymentProviderError, StripeApi

    stripe = await StripeApi.open(settings.api_key, config.stripe_api_base, config.stripe_timeout)
    try:
        await stripe.test()
    except PaymentProviderError as error:
        raise CommandFailed(str(error)) from None
    finally:
        await stripe.close()


def _print(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        print_json(rows)
        return
    shown = [
        {
            **row,
            **{name: row["config_data"].get(name) for name in _SETTINGS},
            "state": "on" if row["is_active"] else "off",
        }
        for row in rows
    ]
    headings = {"provider_type": "PROVIDER", "state": "STATE", "mode": "MODE", **_SETTINGS}
    print_table(shown, headings, "No payment provider yet: ciris-billing providers set stripe")
    for row in rows:
        if row["is_active"] and not row["config_data"].get("webhook_secret"):
            print(
                f"{row['provider_type']} has no webhook secret: payments cannot be credited",
                file=sys.stderr,
            )


_SETTINGS = {
    "api_key": "API KEY",
    "webhook_secret": "WEBHOOK SECRET",
    "publishable_key": "PUBLISHABLE KEY",
}
