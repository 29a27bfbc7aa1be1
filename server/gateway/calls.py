"""Every billing function the web tier calls, with the arguments it passes and the columns it
reads; at start-up compared with what the database has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.gateway.item_fields import fields_of, newest


class SchemaMismatch(Exception):
    """The database does not have what this release calls; `faults` says what is missing."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of billing.`name` in named notation. `sql` is the statement to prepare. In metrics and
    traces it has its `label`, which stays what it is when a function gets another version."""

    name: str
    arguments: tuple[str, ...]
    columns: tuple[str, ...]
    sql: str
    label: str


# How long a call waits for a lock, as text that lock_timeout takes ('500ms'), for the call's own
# transaction; NULL: it waits for none. Said in the same message, since each one takes time.
_WAIT = (
    "CASE WHEN {0}::text IS NULL THEN false ELSE set_config('lock_timeout', {0}, true) <> '' END"
)


# Every call that there is; compare_with_database looks at all of them.
_ALL_CALLS: list[FunctionCall] = []


def function_call(
    name: str, arguments: str, columns: str, label: str | None = None
) -> FunctionCall:
    """A call of billing.`name` with these arguments, without their p_, that reads these columns.
    One that several modules make stands below, another beside the handler that makes it."""
    names, reads = tuple(arguments.split()), tuple(columns.split())
    values = [
        _WAIT.format(f"${number}") if name == "wait" else f"${number}"
        for number, name in enumerate(names, 1)
    ]
    passed = ", ".join(f"p_{name} => {value}" for name, value in zip(names, values, strict=True))
    if reads == (name,):  # not a table but one value
        statement = f"SELECT billing.{name}({passed}) AS {name}"
    else:
        columns_sql = ", ".join(f"f.{column}" for column in reads)
        statement = f"SELECT {columns_sql} FROM billing.{name}({passed}) AS f"  # noqa: S608
    passed_names = tuple(f"p_{argument}" for argument in names)
    call = FunctionCall(name, passed_names, reads, statement, label or name)
    _ALL_CALLS.append(call)
    return call


_PROFILE = "customer_email user_role agent_id marketing_opt_in marketing_opt_in_source"
_ACCOUNT = (
    "account_id oauth_provider external_id wa_id tenant_id customer_email balance_minor currency"
    " plan_name status paid_credits marketing_opt_in marketing_opt_in_at marketing_opt_in_source"
    " created_at updated_at"
)

# Lists of items: tuples in the order of the composite types billing.check_item and charge_item.
# What nobody reads of an outcome is left out.
CHECK_ITEMS = function_call(
    newest("check_items", "check_item"),
    "items wait",
    " ".join(fields_of("check_outcome")),
    label="check_credits",
)
CHARGE_ITEMS = function_call(
    newest("charge_items", "charge_item"),
    "items wait",
    " ".join(
        name for name in fields_of("charge_outcome") if name not in ("balance_before", "replayed")
    ),
    label="create_charges",
)
CHARGE_ITEMS_ONCE = function_call(
    newest("charge_items_once", "charge_item"),
    "idempotency_key request_fingerprint items batch_fingerprint wait",
    " ".join([*CHARGE_ITEMS.columns, "replayed"]),
    label="create_charges_once",
)
RECORD_CREDIT = function_call(
    "record_credit",
    "oauth_provider external_id amount_minor transaction_type description currency"
    f" external_transaction_id idempotency_key {_PROFILE} api_key_id",
    "outcome credit_id account_id amount_minor currency balance_after transaction_type description"
    " external_transaction_id created_at balance account_currency",
)
CREATE_ACCOUNT = function_call(
    "create_account",
    "oauth_provider external_id wa_id tenant_id initial_balance_minor currency plan_name"
    f" {_PROFILE} idempotency_key api_key_id",
    f"{_ACCOUNT} account_created replayed",
)
GET_ACCOUNT = function_call("get_account", "oauth_provider external_id api_key_id", _ACCOUNT)
LIST_TRANSACTIONS = function_call(
    "list_transactions",
    "oauth_provider external_id limit offset cursor api_key_id",
    "total_count transaction_id type amount_minor currency description created_at balance_after"
    " transaction_type external_transaction_id metadata_message_id metadata_agent_id"
    " metadata_channel_id metadata_request_id paid_with next_cursor",
)
FIND_API_KEY = function_call("find_api_key", "key_prefix", "api_key_id key_hash acts_by_digest")
REQUIRE_API_KEY = function_call("require_api_key", "api_key_id permission", "require_api_key")
RETIRE_EXPIRED_API_KEY = function_call(
    "retire_expired_api_key", "api_key_id", "retire_expired_api_key"
)
RECORD_API_KEY_USE = function_call(
    "record_api_key_use", "api_key_ids used_at used_from", "record_api_key_use"
)
BEGIN_PURCHASE = function_call(
    "begin_purchase",
    f"oauth_provider external_id wa_id tenant_id {_PROFILE} idempotency_key api_key_id",
    "purchase_id account_id uses price_minor currency payment_id account_created config_data"
    " credits_added",
)
ATTACH_PAYMENT = function_call(
    "attach_payment",
    "account_id purchase_id payment_id payment_status api_key_id",
    "payment_id",
)
FIND_PURCHASE = function_call(
    "find_purchase",
    "payment_id api_key_id",
    "purchase_id uses price_minor currency credits_added config_data",
)
GET_PROVIDER_CONFIG = function_call("get_provider_config", "provider_type", "is_active config_data")
PROCESS_PAYMENT_EVENT = function_call(
    "process_payment_event",
    "event_id event_type payload action livemode payment_id amount_minor currency account_id"
    " purchase_id oauth_provider external_id return_ids return_kinds return_amounts_minor"
    " return_away_minor return_states return_transactions occurred_at is_claimed is_foreign"
    " warning_id warning_is_open",
    "outcome needs_attention deliveries credits_added",
)
# Staff. All but those of signing in say whose call it is by the session's or token's hash.
CREATE_SIGN_IN_TICKET = function_call(
    "create_sign_in_ticket", "ticket_hash", "create_sign_in_ticket"
)
USE_SIGN_IN_TICKET = function_call("use_sign_in_ticket", "ticket_hash", "use_sign_in_ticket")
SIGN_IN_ADMIN = function_call(
    "sign_in_admin",
    "email google_id session_hash full_name picture_url",
    "admin_user_id email",
)
USE_SIGN_IN_LINK = function_call(
    "use_sign_in_link", "ticket_hash session_hash", "admin_user_id email"
)
GET_SESSION = function_call(
    "get_session",
    "session_hash",
    "admin_user_id email full_name picture_url role expires_at is_active",
)
END_SESSION = function_call("end_session", "session_hash", "end_session")
GET_SETTINGS = function_call(
    "get_settings", "", "free_uses pack_uses pack_price_minor pack_currency admin_email_domain"
)
WATCH_BOOKS = function_call(
    "watch_books", "known", "accounts_checked mismatched payment_problems guard_faults"
)
DESCRIBE_MONEY = function_call("describe_money", "amount_minor currency", "describe_money")
DESCRIBE_PRICE = function_call("describe_price", "pack_price_minor pack_currency", "describe_price")
REFRESH_FIGURES = function_call("refresh_figures", "", "refresh_figures")
GET_OVERVIEW = function_call(
    "get_overview",
    "session_hash",
    "total_users active_users total_api_keys active_api_keys total_balance_minor"
    " total_charged_all_time total_credited_all_time charges_last_24h credits_last_24h"
    " charges_last_7d credits_last_7d payment_problems unique_users_30d",
)
LIST_DAILY_FIGURES = function_call(
    "list_daily_figures",
    "days session_hash",
    "day checks checks_denied charges free_charges charge_amount credits_used credits"
    " credits_added credits_sold credits_taken_back accounts_created unique_users",
)
_TOTALS = "last_charge_at last_credit_at total_charged total_credited charge_count credit_count"
LIST_ACCOUNTS = function_call(
    "list_accounts",
    "search status sort match limit offset count session_hash",
    "total_count account_id oauth_provider external_id wa_id tenant_id customer_email"
    " balance_minor currency plan_name status paid_credits free_uses_remaining total_uses"
    f" created_at {_TOTALS}",
)
GET_ACCOUNT_BY_ID = function_call(
    "get_account_by_id",
    "account_id session_hash",
    f"{_ACCOUNT} user_role agent_id free_uses_remaining total_uses ledger_version {_TOTALS}",
)
LIST_ACCOUNT_TRANSACTIONS = function_call(
    "list_transactions",
    "oauth_provider external_id limit offset cursor session_hash",
    " ".join(LIST_TRANSACTIONS.columns),
)
LIST_CHECKS = function_call(
    "list_checks",
    "account_id limit offset session_hash",
    "check_id has_credit denial_reason credits_remaining free_uses_remaining context_agent_id"
    " context_channel_id context_request_id created_at",
)
ADJUST_CREDITS = function_call(
    "adjust_credits",
    "account_id amount reason idempotency_key session_hash",
    "credit_id amount_minor balance_before balance_after created_at replayed",
)
RESET_FREE_USES = function_call(
    "reset_free_uses",
    "account_id reason free_uses session_hash",
    "free_uses_before free_uses_remaining",
)
SET_ACCOUNT_STATUS = function_call(
    "set_account_status",
    "oauth_provider external_id status reason session_hash",
    "account_id status previous_status",
)
LIST_API_KEYS = function_call(
    "list_api_keys",
    "environment status session_hash",
    "api_key_id name key_prefix environment permissions status description created_at expires_at"
    " last_used_at last_used_ip rotated_to created_by_email created_by_role",
)
CREATE_API_KEY = function_call(
    "create_api_key",
    "name key_prefix key_hash environment permissions description expires_in_days reason"
    " key_digest session_hash",
    "api_key_id name key_prefix environment permissions status created_at expires_at",
)
ROTATE_API_KEY = function_call(
    "rotate_api_key",
    "api_key_id key_prefix key_hash reason key_digest session_hash",
    "api_key_id name key_prefix environment permissions expires_at old_key_expires_at",
)
REVOKE_API_KEY = function_call(
    "revoke_api_key", "api_key_id reason session_hash", "api_key_id name key_prefix status"
)
LIST_PURCHASES = function_call(
    "list_purchases",
    "account_id status limit offset session_hash",
    "purchase_id account_id oauth_provider external_id customer_email provider payment_id status"
    " uses price_minor currency price_text created_at settled_at returned_minor uses_taken_back"
    " shortfall returned_text",
)
LIST_PAYMENT_EVENTS = function_call(
    "list_payment_events",
    "limit offset session_hash",
    "provider event_id event_type payment_id account_id outcome needs_attention deliveries"
    " livemode received_at last_received_at resolved_at resolution",
)
LIST_PAYMENT_PROBLEMS = function_call(
    "list_payment_problems",
    "limit offset session_hash",
    "problem provider reference payment_id account_id what_is_wrong happened_at",
)
RESOLVE_PAYMENT_EVENT = function_call(
    "resolve_payment_event", "event_id reason how credit_id session_hash", "resolve_payment_event"
)
RESOLVE_PAYMENT = function_call(
    "resolve_payment",
    "payment_id how reason credit_id amount_minor currency session_hash",
    "resolve_payment",
)
REOPEN_PAYMENT = function_call("reopen_payment", "payment_id reason session_hash", "reopen_payment")
RESOLVE_PAYMENT_WARNING = function_call(
    "resolve_payment_warning", "warning_id reason session_hash", "resolve_payment_warning"
)
RESOLVE_SHORTFALL = function_call(
    "resolve_shortfall", "return_id reason session_hash", "resolve_shortfall"
)
_PROVIDER = "id provider_type is_active config_data mode updated_at"
LIST_PROVIDER_CONFIGS = function_call("list_provider_configs", "session_hash", _PROVIDER)
SET_PROVIDER_CONFIG = function_call(
    "set_provider_config", "provider_type config_data is_active reason session_hash", _PROVIDER
)
SET_PRICING = function_call(
    "set_pricing",
    "reason free_uses pack_uses pack_price_minor pack_currency session_hash",
    "free_uses pack_uses pack_price_minor pack_currency",
)
LIST_ADMINS = function_call(
    "list_admins",
    "session_hash",
    "admin_user_id email full_name role is_active created_at last_login_at",
)
ADD_ADMIN = function_call(
    "add_admin",
    "email full_name role reason session_hash",
    "admin_user_id email full_name role is_active",
)
SET_ADMIN = function_call(
    "set_admin",
    "email reason role is_active session_hash",
    "admin_user_id email full_name role is_active",
)
LIST_AUDIT_LOG = function_call(
    "list_audit_log",
    "who action resource_id from to limit offset session_hash",
    "id created_at who action resource_type resource_id reason changes ip_address user_agent",
)
GET_SCHEMA_VERSION = function_call("get_schema_version", "", "get_schema_version")
GET_ACCOUNT_HOLDERS = function_call(
    "get_account_holders", "oauth_providers external_ids", "get_account_holders"
)
TRY_WRITING = function_call("try_writing", "", "try_writing")
CREATE_CHECK_PARTITIONS = function_call(
    "create_check_partitions", "months most_rows", "partition_name"
)

# Lists and figures for staff, which a replica may give a few seconds old: functions that write
# nothing, and that any staff member may call.
MAY_BE_STALE = frozenset(
    (GET_OVERVIEW, LIST_DAILY_FIGURES, LIST_ACCOUNTS, LIST_PURCHASES, LIST_CHECKS, LIST_AUDIT_LOG)
)


@dataclass(frozen=True, slots=True)
class ItemType:
    """A composite type of which lists are sent with `call`; and `single`, the function for one item
    that is plain, with the item's fields as its first arguments. `constants` are the columns of an
    answer, as SQL, that are neither the function's nor told from the item."""

    name: str
    call: FunctionCall
    single: str
    constants: Mapping[str, str]

    def single_call(self, fields: Sequence[str]) -> FunctionCall:
        """The call for one item with these fields, as arguments; no row where it is not plain."""
        passed = ", ".join(f"p_{field} => ${place}" for place, field in enumerate(fields, 1))
        echoed = {field: f"${place}" for place, field in enumerate(fields, 1)}
        others = {**echoed, **self.constants}
        columns = ", ".join(
            f"{others.get(column, f'f.{column}')} AS {column}" for column in self.call.columns
        )
        return FunctionCall(
            self.single,
            (*(f"p_{field}" for field in fields), "p_only_plain"),
            (),
            f"SELECT {columns} FROM billing.{self.single}({passed}, p_only_plain => true) AS f",  # noqa: S608
            self.call.label,
        )


CHECK_ITEM = ItemType(
    newest("check_item", "check_item"),
    CHECK_ITEMS,
    "check_credit",
    {"item": "1", "outcome": "'checked'", "account_created": "false"},
)
CHARGE_ITEM = ItemType(
    newest("charge_item", "charge_item"),
    CHARGE_ITEMS,
    "create_charge",
    {
        "item": "1",
        "outcome": "'created'",
        **{name: f"f.{name}" for name in ("amount_minor", "currency", "description")},
        "balance": "NULL::bigint",
        "account_currency": "NULL::text",
    },
)
ITEM_TYPES = (CHECK_ITEM, CHARGE_ITEM)

# What the caller's role may call; see compare_with_database.
KNOWN_FUNCTIONS = (
    "SELECT p.proname::text AS name, coalesce(p.proargnames, '{}') || ARRAY("
    "SELECT a.attname::text FROM pg_catalog.pg_attribute AS a"
    " INNER JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid"
    " WHERE c.reltype = p.prorettype AND c.relkind = 'c') AS names,"
    " has_function_privilege(p.oid, 'EXECUTE') AS allowed"
    " FROM pg_catalog.pg_proc AS p"
    " INNER JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
    " WHERE n.nspname = 'billing'"
)


KNOWN_TYPES = (
    "SELECT c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS fields"
    " FROM pg_catalog.pg_class AS c"
    " INNER JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " INNER JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0"
    " WHERE n.nspname = 'billing' AND c.relkind = 'c' AND NOT a.attisdropped"
    " GROUP BY c.relname"
)


def compare_with_database(
    functions: Sequence[Mapping[str, Any]],
    types: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Sequence[str]],
) -> None:
    """Raises SchemaMismatch unless the rows of KNOWN_FUNCTIONS say that the role may call
    everything this release calls with the arguments and columns it uses, and those of KNOWN_TYPES
    that items have these `fields`, by the type's name."""
    known = {row["name"]: row for row in functions}
    faults = []
    for call in (*_ALL_CALLS, *(item.single_call(fields[item.name]) for item in ITEM_TYPES)):
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
    found = {row["name"]: row["fields"] for row in types}
    for item in ITEM_TYPES:
        if found.get(item.name) != list(fields[item.name]):
            faults.append(f"billing.{item.name} is not {', '.join(fields[item.name])}")
    if faults:
        raise SchemaMismatch(faults)
