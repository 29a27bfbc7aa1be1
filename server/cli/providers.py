"""`ciris-billing providers`: sets up the payment provider, shows its settings (masked), tries it,
and encrypts the settings anew. Secrets come from the environment or files and never from the
command line, where others on the machine could read them."""

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
    WEBHOOK_SECRET,
    InvalidSetting,
    ProviderSettings,
    joined_secrets,
    open_settings,
    seal_anew,
    seal_settings,
    secrets_of,
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
        " ENCRYPTION_KEY. What is not given is kept. STRIPE_WEBHOOK_SECRET may be several, with"
        " commas between them: then they are all there are.",
    )
    setting.add_argument("provider", choices=(_PROVIDER,))
    active = setting.add_mutually_exclusive_group()
    active.add_argument("--enable", action="store_true", default=None, help="sell")
    active.add_argument("--disable", dest="enable", action="store_false", help="stop selling")
    setting.add_argument(
        "--add-webhook-secret",
        action="store_true",
        help="STRIPE_WEBHOOK_SECRET joins those that are stored: of another endpoint, or the next"
        " one of an endpoint whose secret is rolled",
    )
    setting.add_argument(
        "--remove-webhook-secret",
        action="append",
        metavar="MASK",
        default=[],
        help="take away the stored one that `providers list` shows so; may be given again. Without"
        " --add-webhook-secret, STRIPE_WEBHOOK_SECRET is not read",
    )
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
    given: dict[str, Any] = dict(config.given)
    unchanged_since = None
    try:
        if options.add_webhook_secret or options.remove_webhook_secret:
            given[WEBHOOK_SECRET], unchanged_since = _edited_secrets(options, given)
        sealed = seal_settings(options.provider, given, cipher)
    except InvalidSetting as error:
        raise CommandFailed(str(error)) from None
    if not sealed and options.enable is None:
        raise CommandFailed(
            "nothing to set: give STRIPE_API_KEY, STRIPE_WEBHOOK_SECRET or STRIPE_PUBLISHABLE_KEY"
            " (or NAME_FILE) in the environment, or --enable or --disable"
        )
    if options.enable and not sealed.get("api_key"):
        _require_api_key(options.provider)
    changed = _store(options.provider, sealed, options.enable, options.reason, unchanged_since)
    _print(changed, options)
    return 0


def _require_api_key(provider: str) -> None:
    if not _stored(provider)["config_data"].get("api_key"):
        raise CommandFailed(
            f"{provider} cannot sell without an API key: give STRIPE_API_KEY (or"
            " STRIPE_API_KEY_FILE) in the environment"
        )


def _edited_secrets(
    options: argparse.Namespace, given: dict[str, Any]
) -> tuple[list[str], datetime | None]:
    """The webhook secrets after the edit, where a mask stands for a secret that stays; and the time
    of their last change."""
    rows = call_function("SELECT * FROM billing.list_provider_configs()")
    stored = next((row for row in rows if row["provider_type"] == options.provider), None)
    masks = secrets_of(stored["config_data"].get(WEBHOOK_SECRET, "") if stored else "")
    unknown = [mask for mask in options.remove_webhook_secret if mask not in masks]
    if unknown:
        raise CommandFailed(
            f"no webhook secret is shown as {unknown[0]}: see ciris-billing providers list"
        )
    added = secrets_of(given.get(WEBHOOK_SECRET, "")) if options.add_webhook_secret else []
    if options.add_webhook_secret and not added:
        raise CommandFailed("--add-webhook-secret needs STRIPE_WEBHOOK_SECRET in the environment")
    kept = [mask for mask in masks if mask not in options.remove_webhook_secret]
    return joined_secrets(kept, added), stored["updated_at"] if stored else None


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
            sealed = seal_anew(stored["config_data"], cipher)
        except DecryptionFailed:
            raise CommandFailed(
                f"the secrets of {provider} were encrypted with a key that ENCRYPTION_KEY does not"
                " have: add that key after the newest one, or set the secrets again"
            ) from None
        changed += _store(
            provider, sealed, None, "encrypted with the newest key", stored["updated_at"]
        )
    _print(changed, options)
    return 0


def stored_settings(config: ProviderConfig) -> ProviderSettings:
    """Returns Stripe's stored configuration, decrypted. Raises CommandFailed when there is none or
    it cannot be decrypted."""
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
    from server.payments.stripe.api import PaymentProviderError, StripeApi

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
