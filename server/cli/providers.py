"""`ciris-billing providers`: sets up the payment provider, shows its settings (masked), tries it,
and encrypts the settings anew. Secrets come from the environment or files and never from the
command line, where others on the machine could read them."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from server.cli.database import call_function
from server.cli.output import CommandFailed, print_json, print_result, print_table
from server.config import ProviderConfig, load_provider_config, setting_variable
from server.encryption import Cipher, DecryptionFailed
from server.outbox.secrets import opened
from server.payment_kinds import PROVIDER_KINDS
from server.payments.provider import PaymentProvider, PaymentProviderError, ProviderSettings
from server.payments.registry import all_providers, provider_of, title_of
from server.payments.settings import (
    InvalidSetting,
    joined_secrets,
    open_settings,
    seal_anew,
    seal_settings,
    secrets_of,
)

_NEWEST_KEY = "encrypted with the newest key"  # the reason in the audit log


def add_parser(commands: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = commands.add_parser("providers", help="set up the payment provider, and try it")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="show what is set, secrets masked")
    listing.set_defaults(run=_list)

    setting = actions.add_parser(
        "set",
        help="set what the environment gives; the rest is kept",
        description=" ".join(map(_what_is_read, all_providers())) + " What is not given is kept.",
    )
    setting.add_argument("provider", choices=PROVIDER_KINDS)
    active = setting.add_mutually_exclusive_group()
    active.add_argument("--enable", action="store_true", default=None, help="sell")
    active.add_argument("--disable", dest="enable", action="store_false", help="stop selling")
    for name in _several(*all_providers()):
        _add_list_options(setting, name)
    setting.add_argument("--reason", help="why, for the audit log")
    setting.set_defaults(run=_set)

    trying = actions.add_parser("test", help="ask the provider whether it accepts the API key")
    trying.add_argument("provider", choices=PROVIDER_KINDS, nargs="?", default=PROVIDER_KINDS[0])
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


def _what_is_read(provider: PaymentProvider) -> str:
    """What `set` reads for a provider, as a sentence or two."""
    variables = _variables(provider)
    text = (
        f"Reads {_series(variables, 'and')}, or the files that the same names with _FILE name, and"
        " stores them encrypted with ENCRYPTION_KEY."
    )
    several = [setting_variable(provider.kind, name) for name in _several(provider)]
    if several:
        text += (
            f" {_series(several, 'and')} may be several, with commas between them: then they are"
            " all there are."
        )
    return text


def _variables(provider: PaymentProvider) -> list[str]:
    return [setting_variable(provider.kind, setting.name) for setting in provider.settings]


def _series(words: Sequence[str], conjunction: str) -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def _several(*providers: PaymentProvider) -> list[str]:
    """The settings of which a provider may have several."""
    names = (
        setting.name
        for provider in providers
        for setting in provider.settings
        if setting.may_be_several
    )
    return list(dict.fromkeys(names))


def _add_list_options(parser: argparse.ArgumentParser, name: str) -> None:
    option, variable = name.replace("_", "-"), setting_variable(PROVIDER_KINDS[0], name)
    parser.add_argument(
        f"--add-{option}",
        action="store_true",
        help=f"add {variable} to the stored ones: the secret of another endpoint, or the new"
        " secret of an endpoint whose secret is being changed",
    )
    parser.add_argument(
        f"--remove-{option}",
        action="append",
        metavar="MASK",
        default=[],
        help="remove the stored one that `providers list` shows with this mask; may be given more"
        f" than once. Without --add-{option}, {variable} is not read",
    )


def _set(options: argparse.Namespace) -> int:
    provider = provider_of(options.provider)
    names = [setting.name for setting in provider.settings]
    config = load_provider_config(os.environ, provider.kind, names, need_keys=False)
    cipher = Cipher(config.encryption_keys) if config.encryption_keys else None
    given: dict[str, Any] = dict(config.given)
    unchanged_since = None
    try:
        for name in _several(provider):
            if getattr(options, f"add_{name}") or getattr(options, f"remove_{name}"):
                given[name], unchanged_since = _edited_secrets(options, name, given)
        sealed = seal_settings(provider.kind, given, cipher)
    except InvalidSetting as error:
        raise CommandFailed(str(error)) from None
    if not sealed and options.enable is None:
        raise CommandFailed(
            f"nothing to set: give {_series(_variables(provider), 'or')}"
            " (or NAME_FILE) in the environment, or --enable or --disable"
        )
    if options.enable and not sealed.get(provider.credential):
        _require_credential(provider)
    changed = _store(provider.kind, sealed, options.enable, options.reason, unchanged_since)
    _print(changed, options)
    return 0


def _require_credential(provider: PaymentProvider) -> None:
    if not _stored(provider.kind)["config_data"].get(provider.credential):
        variable = setting_variable(provider.kind, provider.credential)
        title = title_of(provider, provider.credential)
        raise CommandFailed(
            f"{provider.kind} cannot sell without an {title}: give {variable} (or {variable}_FILE)"
            " in the environment"
        )


def _edited_secrets(
    options: argparse.Namespace, name: str, given: dict[str, Any]
) -> tuple[list[str], datetime | None]:
    """The secrets of a setting after the edit, where a mask stands for a secret that stays; and the
    time of their last change."""
    adds, removed = getattr(options, f"add_{name}"), getattr(options, f"remove_{name}")
    rows = call_function("SELECT * FROM billing.list_provider_configs()")
    stored = next((row for row in rows if row["provider_type"] == options.provider), None)
    masks = secrets_of(name, stored["config_data"].get(name, "") if stored else "")
    unknown = [mask for mask in removed if mask not in masks]
    if unknown:
        raise CommandFailed(
            f"no {name.replace('_', ' ')} is shown as {unknown[0]}:"
            " see ciris-billing providers list"
        )
    added = secrets_of(name, given.get(name, "")) if adds else []
    if adds and not added:
        raise CommandFailed(
            f"--add-{name.replace('_', '-')} needs {setting_variable(options.provider, name)} in"
            " the environment"
        )
    kept = [mask for mask in masks if mask not in removed]
    return joined_secrets(kept, added), stored["updated_at"] if stored else None


def _test(options: argparse.Namespace) -> int:
    provider = provider_of(options.provider)
    config = load_provider_config(os.environ, provider.kind)
    asyncio.run(_ask(provider, stored_settings(provider, config), config))
    print_result(
        {"provider": provider.kind, "accepted": True},
        f"{provider.name} accepts the {title_of(provider, provider.credential)}.",
        as_json=options.json,
    )
    return 0


def _reencrypt(options: argparse.Namespace) -> int:
    cipher = Cipher(load_provider_config(os.environ).encryption_keys)
    changed = []
    for listed in call_function("SELECT * FROM billing.list_provider_configs()"):
        provider = listed["provider_type"]
        stored = _stored(provider)
        try:
            sealed = seal_anew(provider, stored["config_data"], cipher)
        except DecryptionFailed:
            raise CommandFailed(
                f"the secrets of {provider} were encrypted with a key that ENCRYPTION_KEY does not"
                " have: add that key after the newest one, or set the secrets again"
            ) from None
        changed += _store(provider, sealed, None, _NEWEST_KEY, stored["updated_at"])
    _print(changed, options)
    endpoints = call_function("SELECT * FROM billing.list_webhook_endpoints()")
    for listed in endpoints:
        _reencrypt_endpoint(listed["endpoint_id"], cipher)
    if endpoints:
        print(f"Webhook endpoints with their secrets: {len(endpoints)}", file=sys.stderr)
    return 0


def _reencrypt_endpoint(endpoint_id: UUID, cipher: Cipher) -> None:
    """Encrypts the secrets that sign an endpoint's alerts anew. It begins again if the endpoint was
    changed in the meantime, and does nothing for an endpoint that was deleted."""
    while endpoint := _endpoint(endpoint_id):
        try:
            secrets = opened(json.dumps(endpoint["secrets"]), cipher)
        except DecryptionFailed:
            raise CommandFailed(
                f"the secret of the webhook endpoint {endpoint['name']} was encrypted with a key"
                " that ENCRYPTION_KEY does not have: add that key after the newest one, or make a"
                " new secret in the console"
            ) from None
        [answer] = call_function(
            "SELECT billing.reseal_webhook_secrets(p_endpoint_id => %(endpoint)s,"
            " p_secrets => %(secrets)s, p_reason => %(reason)s,"
            " p_unchanged_since => %(unchanged_since)s) AS is_stored",
            endpoint=endpoint_id,
            secrets=json.dumps(
                [
                    {**stored, "encrypted": cipher.encrypt(secret)}
                    for stored, secret in zip(endpoint["secrets"], secrets, strict=True)
                ]
            ),
            reason=_NEWEST_KEY,
            unchanged_since=endpoint["updated_at"],
        )
        if answer["is_stored"]:
            return


def _endpoint(endpoint_id: UUID) -> dict[str, Any] | None:
    """An endpoint as it was last changed, with its secrets as they are stored."""
    rows = call_function(
        "SELECT e.name, e.updated_at, s.secrets FROM billing.list_webhook_endpoints() AS e"
        " CROSS JOIN LATERAL billing.get_webhook_endpoint(p_endpoint_id => e.endpoint_id) AS s"
        " WHERE e.endpoint_id = %(endpoint)s",
        endpoint=endpoint_id,
    )
    return rows[0] if rows else None


def stored_settings(provider: PaymentProvider, config: ProviderConfig) -> ProviderSettings:
    """Returns a provider's stored configuration, decrypted. Raises CommandFailed when there is none
    or it cannot be decrypted."""
    stored = _stored(provider.kind)["config_data"]
    settings = open_settings(provider.kind, stored, Cipher(config.encryption_keys))
    if settings is None:
        raise CommandFailed(
            "the stored secrets were encrypted with a key that ENCRYPTION_KEY does not have"
        )
    if not settings.get(provider.credential):
        raise CommandFailed(
            f"{provider.name} has no {title_of(provider, provider.credential)} yet:"
            f" ciris-billing providers set {provider.kind}"
        )
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
        config=json.dumps(sealed),
        active=active,
        reason=reason,
        unchanged_since=unchanged_since,
    )


async def _ask(
    provider: PaymentProvider, settings: ProviderSettings, config: ProviderConfig
) -> None:
    api = await provider.connect(settings, config.connection)
    try:
        await api.test()
    except PaymentProviderError as error:
        raise CommandFailed(str(error)) from None
    finally:
        await api.close()


def _print(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        print_json(rows)
        return
    settings = {
        setting.name: setting.title.upper()
        for provider in all_providers()
        for setting in provider.settings
    }
    shown = [
        {
            **row,
            **{name: row["config_data"].get(name) for name in settings},
            "state": "on" if row["is_active"] else "off",
        }
        for row in rows
    ]
    headings = {"provider_type": "PROVIDER", "state": "STATE", "mode": "MODE", **settings}
    print_table(
        shown,
        headings,
        f"No payment provider yet: ciris-billing providers set {PROVIDER_KINDS[0]}",
    )
    for row in rows:
        for name in _missing_lists(row):
            print(
                f"{row['provider_type']} has no {name.replace('_', ' ')}: payments cannot be"
                " credited",
                file=sys.stderr,
            )


def _missing_lists(row: dict[str, Any]) -> list[str]:
    """The secrets that events are verified by and that an active provider lacks."""
    if not row["is_active"] or row["provider_type"] not in PROVIDER_KINDS:
        return []
    names = _several(provider_of(row["provider_type"]))
    return [name for name in names if not row["config_data"].get(name)]
