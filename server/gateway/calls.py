"""Every billing function the web tier calls, with the arguments it passes and the columns it
reads; at start-up compared with what the database has."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg


class SchemaMismatch(Exception):
    """The database does not have what this release calls; `faults` says what is missing."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of billing.`name` in named notation. `sql` is the statement to prepare."""

    name: str
    arguments: tuple[str, ...]
    columns: tuple[str, ...]
    sql: str


def _call(name: str, arguments: str, columns: str) -> FunctionCall:
    names, reads = tuple(arguments.split()), tuple(columns.split())
    passed = ", ".join(f"p_{name} => ${number}" for number, name in enumerate(names, 1))
    if reads == (name,):  # not a table but one value
        statement = f"SELECT billing.{name}({passed}) AS {name}"
    else:
        columns_sql = ", ".join(f"f.{column}" for column in reads)
        statement = f"SELECT {columns_sql} FROM billing.{name}({passed}) AS f"  # noqa: S608
    return FunctionCall(name, tuple(f"p_{argument}" for argument in names), reads, statement)


_PROFILE = "customer_email user_role agent_id marketing_opt_in marketing_opt_in_source"
_PROFILES = "customer_emails user_roles agent_ids marketing_opt_ins marketing_opt_in_sources"
_ACCOUNT = (
    "account_id oauth_provider external_id wa_id tenant_id customer_email balance_minor currency"
    " plan_name status paid_credits marketing_opt_in marketing_opt_in_at marketing_opt_in_source"
    " created_at updated_at"
)

CHECK_CREDITS = _call(
    "check_credits",
    "oauth_providers external_ids wa_ids tenant_ids context_agent_ids context_channel_ids"
    f" context_request_ids {_PROFILES} api_key_ids wait",
    "item outcome has_credit credits_remaining plan_name reason free_uses_remaining total_uses"
    " purchase_required purchase_price_minor purchase_uses account_created",
)
CREATE_CHARGES = _call(
    "create_charges",
    "oauth_providers external_ids amounts_minor currencies descriptions idempotency_keys"
    " metadata_message_ids metadata_agent_ids metadata_channel_ids metadata_request_ids"
    f" {_PROFILES} api_key_ids wait",
    "item outcome charge_id account_id amount_minor currency balance_after created_at description"
    " metadata_message_id metadata_agent_id metadata_channel_id metadata_request_id paid_with"
    " free_uses_after balance account_currency",
)
CREATE_CHARGES_ONCE = _call(
    "create_charges_once",
    "oauth_providers external_ids amounts_minor currencies descriptions idempotency_keys"
    " metadata_message_ids metadata_agent_ids metadata_channel_ids metadata_request_ids"
    f" {_PROFILES} idempotency_key request_fingerprint api_key_id",
    " ".join([*CREATE_CHARGES.columns, "replayed"]),
)
RECORD_CREDIT = _call(
    "record_credit",
    "oauth_provider external_id amount_minor transaction_type description currency"
    f" external_transaction_id idempotency_key {_PROFILE} api_key_id",
    "outcome credit_id account_id amount_minor currency balance_after transaction_type description"
    " external_transaction_id created_at balance account_currency",
)
CREATE_ACCOUNT = _call(
    "create_account",
    "oauth_provider external_id wa_id tenant_id initial_balance_minor currency plan_name"
    f" {_PROFILE} idempotency_key api_key_id",
    f"{_ACCOUNT} account_created replayed",
)
GET_ACCOUNT = _call("get_account", "oauth_provider external_id api_key_id", _ACCOUNT)
LIST_TRANSACTIONS = _call(
    "list_transactions",
    "oauth_provider external_id limit offset api_key_id",
    "total_count transaction_id type amount_minor currency description created_at balance_after"
    " transaction_type external_transaction_id metadata_message_id metadata_agent_id"
    " metadata_channel_id metadata_request_id paid_with",
)
FIND_API_KEY = _call("find_api_key", "key_prefix", "api_key_id key_hash")
REQUIRE_API_KEY = _call("require_api_key", "api_key_id permission", "require_api_key")
RETIRE_EXPIRED_API_KEY = _call("retire_expired_api_key", "api_key_id", "retire_expired_api_key")
RECORD_API_KEY_USE = _call(
    "record_api_key_use", "api_key_ids used_at used_from", "record_api_key_use"
)
BEGIN_PURCHASE = _call(
    "begin_purchase",
    f"oauth_provider external_id wa_id tenant_id {_PROFILE} idempotency_key api_key_id",
    "purchase_id account_id uses price_minor currency payment_id payment_status account_created"
    " config_data",
)
ATTACH_PAYMENT = _call(
    "attach_payment",
    "account_id purchase_id payment_id payment_status api_key_id",
    "payment_id payment_status",
)
FIND_PURCHASE = _call(
    "find_purchase",
    "payment_id api_key_id",
    "purchase_id uses credits_added config_data",
)
GET_PROVIDER_CONFIG = _call("get_provider_config", "provider_type", "is_active config_data")
PROCESS_PAYMENT_EVENT = _call(
    "process_payment_event",
    "event_id event_type payload action livemode payment_id amount_minor currency account_id"
    " purchase_id oauth_provider external_id return_ids return_kinds return_amounts_minor"
    " returns_withdrawn",
    "outcome needs_attention deliveries credits_added",
)
GET_SCHEMA_VERSION = _call("get_schema_version", "", "get_schema_version")
CREATE_CHECK_PARTITIONS = _call("create_check_partitions", "months", "partition_name")

ALL_CALLS = (
    CHECK_CREDITS,
    CREATE_CHARGES,
    CREATE_CHARGES_ONCE,
    RECORD_CREDIT,
    CREATE_ACCOUNT,
    GET_ACCOUNT,
    LIST_TRANSACTIONS,
    FIND_API_KEY,
    REQUIRE_API_KEY,
    RETIRE_EXPIRED_API_KEY,
    BEGIN_PURCHASE,
    ATTACH_PAYMENT,
    FIND_PURCHASE,
    GET_PROVIDER_CONFIG,
    PROCESS_PAYMENT_EVENT,
    RECORD_API_KEY_USE,
    GET_SCHEMA_VERSION,
    CREATE_CHECK_PARTITIONS,
)


async def compare_with_database(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Raises SchemaMismatch unless the connection's role may call everything in ALL_CALLS with
    the arguments and columns this release uses."""
    rows = await connection.fetch(
        "SELECT p.proname::text AS name, coalesce(p.proargnames, '{}') AS names,"
        " has_function_privilege(p.oid, 'EXECUTE') AS allowed"
        " FROM pg_catalog.pg_proc AS p"
        " INNER JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'billing'"
    )
    known = {row["name"]: row for row in rows}
    faults = []
    for call in ALL_CALLS:
        row = known.get(call.name)
        if row is None:
            faults.append(f"billing.{call.name} does not exist")
            continue
        if not row["allowed"]:
            faults.append(f"billing.{call.name} may not be called by this role")
        missing = [
            name
            for name in (*call.arguments, *call.columns)
            if name not in row["names"] and name != call.name
        ]
        if missing:
            faults.append(f"billing.{call.name} lacks {', '.join(missing)}")
    if faults:
        raise SchemaMismatch(faults)
