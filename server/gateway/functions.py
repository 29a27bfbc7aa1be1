"""The functions of schema billing that server/ calls, made from the catalogue.

Written by `make golden`; not to be edited. What a function does: \\df+ billing.*, or sql/."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from server.gateway.call import function


@function("admin_user_id email full_name role is_active created_at")
def add_admin(
    *,
    email: str,
    full_name: str | None = ...,
    role: str = ...,
    reason: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("note_id account_id created_at")
def add_note(*, account_id: UUID, note: str, session_hash: bytes | None = ...) -> None: ...


@function("account_id credit_id amount_minor balance_before balance_after created_at replayed")
def adjust_credits(
    *,
    account_id: UUID | None = ...,
    amount: int | None = ...,
    reason: str | None = ...,
    idempotency_key: str | None = ...,
    session_hash: bytes | None = ...,
    account_ids: Sequence[UUID | None] | None = ...,
    amounts: Sequence[int | None] | None = ...,
    dry_run: bool = ...,
    expires_at: datetime | None = ...,
    priority: int | None = ...,
    source: str | None = ...,
) -> None: ...


@function()
def announce_expiring_credits(*, most: int = ...) -> None: ...


@function("payment_id payment_status")
def attach_payment(
    *,
    account_id: UUID,
    purchase_id: UUID,
    payment_id: str,
    payment_status: str,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "account_id at state paid_credits free_uses ledger_version transaction_id type "
    "transaction_type amount_minor created_at reason writer_kind writer"
)
def balance_at(
    *,
    account_id: UUID,
    at: datetime,
    session_hash: bytes | None = ...,
    api_key_id: UUID | None = ...,
    follow: bool = ...,
) -> None: ...


@function(
    "purchase_id account_id uses price_minor currency payment_id payment_status "
    "account_created replayed config_data credits_added provider"
)
def begin_purchase(
    *,
    oauth_provider: str,
    external_id: str,
    customer_email: str,
    wa_id: str | None = ...,
    tenant_id: str | None = ...,
    user_role: str | None = ...,
    agent_id: str | None = ...,
    marketing_opt_in: bool = ...,
    marketing_opt_in_source: str | None = ...,
    idempotency_key: str | None = ...,
    provider: str = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
    save_card: bool = ...,
) -> None: ...


@function(
    "refund_id account_id purchase_id provider payment_id amount_minor currency amount_text "
    "left_minor left_text credits_due credits_there reason created_at return_id failure "
    "replayed"
)
def begin_refund(
    *,
    payment_id: str,
    reason: str,
    amount_minor: int | None = ...,
    idempotency_key: str | None = ...,
    dry_run: bool = ...,
    provider: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("schedule_id account_id next_at")
def change_grant_schedule(
    *,
    schedule_id: UUID,
    reason: str,
    amount: int | None = ...,
    rollover: bool | None = ...,
    description: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("checked hold")
def check_and_hold(
    *,
    oauth_provider: str,
    external_id: str,
    amount_minor: int,
    expires_in_seconds: int = ...,
    description: str = ...,
    idempotency_key: str | None = ...,
    wa_id: str | None = ...,
    tenant_id: str | None = ...,
    context_agent_id: str | None = ...,
    context_channel_id: str | None = ...,
    context_request_id: str | None = ...,
    customer_email: str | None = ...,
    user_role: str | None = ...,
    agent_id: str | None = ...,
    marketing_opt_in: bool = ...,
    marketing_opt_in_source: str | None = ...,
    api_key_id: UUID | None = ...,
) -> None: ...


@function("delivery_id event_id endpoint_id attempt url secrets payload")
def claim_deliveries(*, most: int = ..., busy: Sequence[UUID | None] = ...) -> None: ...


@function(
    "account_id purchase_id oauth_provider external_id customer_email uses price_minor "
    "currency payment_id customer_id payment_method_id provider config_data"
)
def claim_top_ups(*, limit: int) -> None: ...


@function("entries is_more")
def count_audit_log(
    *,
    who: str | None = ...,
    action: str | None = ...,
    resource_id: str | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    entry_id: UUID | None = ...,
    most: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("caps is_more")
def count_caps(
    *,
    scope: str | None = ...,
    account_id: UUID | None = ...,
    most: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("deliveries is_more")
def count_deliveries(
    *,
    endpoint_id: UUID | None = ...,
    state: str | None = ...,
    kind: str | None = ...,
    account_id: UUID | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    most: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("events is_more")
def count_payment_events(
    *,
    payment_id: str | None = ...,
    event_id: str | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    most: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("problems is_more")
def count_payment_problems(*, most: int = ..., session_hash: bytes | None = ...) -> None: ...


@function(
    "account_id oauth_provider external_id wa_id tenant_id customer_email balance_minor "
    "currency plan_name status paid_credits marketing_opt_in marketing_opt_in_at "
    "marketing_opt_in_source created_at updated_at account_created replayed"
)
def create_account(
    *,
    oauth_provider: str,
    external_id: str,
    wa_id: str | None = ...,
    tenant_id: str | None = ...,
    initial_balance_minor: int = ...,
    currency: str = ...,
    plan_name: str = ...,
    customer_email: str | None = ...,
    user_role: str | None = ...,
    agent_id: str | None = ...,
    marketing_opt_in: bool = ...,
    marketing_opt_in_source: str | None = ...,
    idempotency_key: str | None = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("api_key_id name key_prefix environment permissions status created_at expires_at")
def create_api_key(
    *,
    name: str,
    key_prefix: str,
    key_hash: str,
    environment: str = ...,
    permissions: Sequence[str | None] = ...,
    description: str | None = ...,
    expires_in_days: int | None = ...,
    reason: str | None = ...,
    key_digest: bytes | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("partition_name")
def create_check_partitions(*, months: int = ..., most_rows: int | None = ...) -> None: ...


@function(
    "item outcome hold_id account_id amount_minor currency state paid_with captured_minor "
    "charge_id is_late description metadata_message_id metadata_agent_id metadata_channel_id "
    "metadata_request_id created_at expires_at settled_at balance held available "
    "free_uses_available account_currency cap"
)
def create_hold(
    *,
    oauth_provider: str,
    external_id: str,
    amount_minor: int,
    expires_in_seconds: int = ...,
    description: str = ...,
    idempotency_key: str | None = ...,
    currency: str | None = ...,
    metadata_message_id: str | None = ...,
    metadata_agent_id: str | None = ...,
    metadata_channel_id: str | None = ...,
    metadata_request_id: str | None = ...,
    dry_run: bool = ...,
    api_key_id: UUID | None = ...,
) -> None: ...


@function()
def create_sign_in_ticket(*, ticket_hash: bytes) -> None: ...


@function()
def create_webhook_endpoint(
    *,
    name: str,
    url: str,
    secret: str,
    reason: str,
    kinds: Sequence[str | None] = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("cap_id scope subject subject_name period mode limit_minor used_minor")
def delete_cap(*, cap_id: UUID, reason: str, session_hash: bytes | None = ...) -> None: ...


@function()
def delete_webhook_endpoint(
    *, endpoint_id: UUID, reason: str, session_hash: bytes | None = ...
) -> None: ...


@function()
def describe_money(*, amount_minor: int, currency: str, with_currency: bool = ...) -> None: ...


@function()
def describe_price(*, pack_price_minor: int, pack_currency: str) -> None: ...


@function("schedule_id account_id")
def end_grant_schedule(
    *, schedule_id: UUID, reason: str, session_hash: bytes | None = ...
) -> None: ...


@function()
def end_session(*, session_hash: bytes) -> None: ...


@function("account_id changed")
def end_top_up(
    *,
    account_id: UUID | None = ...,
    oauth_provider: str | None = ...,
    external_id: str | None = ...,
    reason: str | None = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("table_name rows_erased obstacle")
def erase_personal_data(
    *,
    account_id: UUID,
    reason: str,
    dry_run: bool = ...,
    force: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("kind sentence what_helps since is_over agent_id credits_needed payment_id")
def explain_account(
    *, account_id: UUID, at: datetime | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "sentence what_helps kind denied_at reason refusals would_pass_now api_key_name "
    "api_key_prefix database_role agent_id channel_id request_id amount_minor currency "
    "paid_credits_then free_uses_then paid_credits_now free_uses_now status_now"
)
def explain_denial(
    *, account_id: UUID, at: datetime | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function()
def export_personal_data(*, account_id: UUID, session_hash: bytes | None = ...) -> None: ...


@function(
    "item outcome hold_id account_id amount_minor currency state paid_with captured_minor "
    "charge_id is_late description metadata_message_id metadata_agent_id metadata_channel_id "
    "metadata_request_id created_at expires_at settled_at balance held available "
    "free_uses_available account_currency cap"
)
def extend_hold(
    *, hold_id: UUID, expires_in_seconds: int = ..., api_key_id: UUID | None = ...
) -> None: ...


@function("api_key_id key_hash acts_by_digest")
def find_api_key(*, key_prefix: str) -> None: ...


@function(
    "purchase_id account_id status uses price_minor currency credits_added created_at "
    "settled_at config_data provider"
)
def find_purchase(
    *,
    payment_id: str,
    provider: str | None = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("refund_id return_id failure finished_at")
def finish_refund(
    *,
    refund_id: UUID,
    return_id: str | None = ...,
    failure: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "account_id oauth_provider external_id wa_id tenant_id customer_email balance_minor "
    "currency plan_name status paid_credits marketing_opt_in marketing_opt_in_at "
    "marketing_opt_in_source created_at updated_at free_uses_remaining total_uses user_role "
    "agent_id ledger_version held"
)
def get_account(
    *,
    oauth_provider: str,
    external_id: str,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "account_id oauth_provider external_id wa_id tenant_id customer_email user_role agent_id "
    "balance_minor currency plan_name status paid_credits free_uses_remaining total_uses "
    "ledger_version marketing_opt_in marketing_opt_in_at marketing_opt_in_source created_at "
    "updated_at last_charge_at last_credit_at total_charged total_credited charge_count "
    "credit_count"
)
def get_account_by_id(*, account_id: UUID, session_hash: bytes | None = ...) -> None: ...


@function()
def get_account_holders(
    *,
    oauth_providers: Sequence[str | None],
    external_ids: Sequence[str | None],
    hold_ids: Sequence[UUID | None] = ...,
) -> None: ...


@function(
    "checks checks_denied charges free_charges credits_used credits_added credits_sold "
    "credits_taken_back accounts users"
)
def get_figures(
    *, from_: date | None = ..., to: date | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "item outcome hold_id account_id amount_minor currency state paid_with captured_minor "
    "charge_id is_late description metadata_message_id metadata_agent_id metadata_channel_id "
    "metadata_request_id created_at expires_at settled_at balance held available "
    "free_uses_available account_currency cap"
)
def get_hold(
    *, hold_id: UUID, api_key_id: UUID | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "total_users active_users total_api_keys active_api_keys total_balance_minor "
    "total_charged_all_time total_credited_all_time charges_last_24h credits_last_24h "
    "charges_last_7d credits_last_7d payment_problems unique_users_30d"
)
def get_overview(*, session_hash: bytes | None = ...) -> None: ...


@function(
    "sealed_through head closed_at entries_sealed verification_started_at verified_at ranges "
    "ranges_done accounts_verified entries_verified problems first_problem first_account_id "
    "is_behind"
)
def get_proof(*, session_hash: bytes | None = ...) -> None: ...


@function("is_active config_data mode updated_at")
def get_provider_config(*, provider_type: str) -> None: ...


@function()
def get_schema_version() -> None: ...


@function("admin_user_id email full_name picture_url role expires_at is_active")
def get_session(*, session_hash: bytes) -> None: ...


@function("free_uses pack_uses pack_price_minor pack_currency admin_email_domain low_balance")
def get_settings() -> None: ...


@function(
    "account_id top_up_id status threshold packs uses amount_minor currency amount_text "
    "monthly_cap_minor monthly_cap_text spent_this_month_minor spent_this_month_text card "
    "consent_version consent_text consent_at failures problem problem_text next_attempt_at "
    "ended_at end_reason attempt_status attempt_payment_id attempt_at"
)
def get_top_up(
    *,
    account_id: UUID | None = ...,
    oauth_provider: str | None = ...,
    external_id: str | None = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("endpoint_id name url status secrets")
def get_webhook_endpoint(*, endpoint_id: UUID, session_hash: bytes | None = ...) -> None: ...


@function("day charges credits_used")
def list_account_days(
    *, account_id: UUID, days: int = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "total_count account_id oauth_provider external_id wa_id tenant_id customer_email "
    "balance_minor currency plan_name status paid_credits free_uses_remaining total_uses "
    "created_at last_charge_at last_credit_at total_charged total_credited charge_count "
    "credit_count"
)
def list_accounts(
    *,
    search: str | None = ...,
    status: str | None = ...,
    sort: str = ...,
    match: str = ...,
    limit: int = ...,
    offset: int = ...,
    count: bool = ...,
    from_: date | None = ...,
    to: date | None = ...,
    reverse: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("admin_user_id email full_name role is_active created_at last_login_at")
def list_admins(*, session_hash: bytes | None = ...) -> None: ...


@function(
    "charge_id ledger_version created_at charge_minor lot_id credit_id in_pool amount_minor "
    "source expires_at"
)
def list_allocations(
    *,
    account_id: UUID | None = ...,
    charge_id: UUID | None = ...,
    before: int | None = ...,
    limit: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "api_key_id name key_prefix environment permissions status description created_at "
    "expires_at last_used_at last_used_ip rotated_to created_by_email created_by_role"
)
def list_api_keys(
    *, environment: str | None = ..., status: str | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "id created_at who action resource_type resource_id reason changes ip_address user_agent "
    "database_login account_id account_name other_account_id other_account_name"
)
def list_audit_log(
    *,
    who: str | None = ...,
    action: str | None = ...,
    resource_id: str | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    limit: int = ...,
    offset: int = ...,
    entry_id: UUID | None = ...,
    reverse: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "cap_id scope subject subject_name period mode limit_minor used_minor left_minor "
    "window_start resets_at reached_at counts_from updated_at"
)
def list_caps(
    *,
    scope: str | None = ...,
    account_id: UUID | None = ...,
    cap_id: UUID | None = ...,
    limit: int = ...,
    offset: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "check_id has_credit denial_reason credits_remaining free_uses_remaining context_agent_id "
    "context_channel_id context_request_id created_at"
)
def list_checks(
    *, account_id: UUID, limit: int = ..., offset: int = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "day checks checks_denied charges free_charges charge_amount credits_used credits "
    "credits_added credits_sold credits_taken_back accounts_created unique_users"
)
def list_daily_figures(
    *, days: int = ..., to: date | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "delivery_id event_id endpoint_id endpoint_name kind account_id payload state attempts "
    "created_at due_at attempted_at answer_status error settled_at account"
)
def list_deliveries(
    *,
    endpoint_id: UUID | None = ...,
    state: str | None = ...,
    kind: str | None = ...,
    account_id: UUID | None = ...,
    limit: int = ...,
    offset: int = ...,
    from_: date | None = ...,
    to: date | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "schedule_id account_id state amount_minor currency repeat day rollover lasts_days "
    "expires_at next_at ends_at grants_left grants source priority description reason who "
    "created_at updated_at"
)
def list_grant_schedules(
    *,
    account_id: UUID | None = ...,
    all: bool = ...,
    limit: int = ...,
    offset: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "item outcome hold_id account_id amount_minor currency state paid_with captured_minor "
    "charge_id is_late description metadata_message_id metadata_agent_id metadata_channel_id "
    "metadata_request_id created_at expires_at settled_at balance held available "
    "free_uses_available account_currency cap"
)
def list_holds(
    *,
    oauth_provider: str | None = ...,
    external_id: str | None = ...,
    account_id: UUID | None = ...,
    state: str | None = ...,
    after: UUID | None = ...,
    limit: int = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "hour checks checks_denied charges free_charges charge_amount credits_used credits "
    "credits_added credits_sold credits_taken_back accounts_created unique_users"
)
def list_hourly_figures(*, day: date | None = ..., session_hash: bytes | None = ...) -> None: ...


@function(
    "lot_id credit_id source in_pool amount_minor left_minor held_minor priority expires_at "
    "created_at description"
)
def list_lots(
    *,
    account_id: UUID,
    all: bool = ...,
    pool: bool = ...,
    limit: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "merge_id merged_account_id oauth_provider external_id customer_email account_id "
    "credits_moved free_uses_given reason who created_at undone_at undo_reason problem"
)
def list_merges(*, account_id: UUID, session_hash: bytes | None = ...) -> None: ...


@function("currency gross_minor refunded_minor net_minor gross_text refunded_text net_text")
def list_money(
    *, from_: date | None = ..., to: date | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function("note_id account_id created_at who note")
def list_notes(*, account_id: UUID, session_hash: bytes | None = ...) -> None: ...


@function("transaction_id origin")
def list_origins(
    *,
    account_id: UUID,
    after: int | None = ...,
    through: int | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "provider event_id event_type payment_id account_id outcome needs_attention deliveries "
    "livemode received_at last_received_at resolved_at resolution outcome_words account"
)
def list_payment_events(
    *,
    limit: int = ...,
    offset: int = ...,
    payment_id: str | None = ...,
    event_id: str | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    reverse: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("problem provider reference payment_id account_id what_is_wrong happened_at")
def list_payment_problems(
    *, limit: int = ..., offset: int = ..., session_hash: bytes | None = ...
) -> None: ...


@function("id provider_type is_active config_data mode updated_at")
def list_provider_configs(*, session_hash: bytes | None = ...) -> None: ...


@function(
    "purchase_id account_id oauth_provider external_id customer_email provider payment_id "
    "status uses price_minor currency price_text created_at settled_at returned_minor "
    "uses_taken_back shortfall returned_text left_minor left_text livemode"
)
def list_purchases(
    *,
    account_id: UUID | None = ...,
    status: str | None = ...,
    limit: int = ...,
    offset: int = ...,
    payment_id: str | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    sort: str = ...,
    reverse: bool = ...,
    days_of: str = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "refund_id return_id kind state amount_minor currency amount_text away_minor away_text "
    "credits_due credits_taken who reason failure idempotency_key asked_text created_at"
)
def list_refunds(
    *, payment_id: str, provider: str | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function(
    "kind at id what reason writer_kind writer credits_change free_uses_change balance_after "
    "amount_minor currency amount_text paid_credits free_uses times payment_id message_id "
    "agent_id channel_id request_id corrects_id left_to_reverse audit_id audit_thing changes "
    "next_cursor"
)
def list_timeline(
    *,
    account_id: UUID,
    kinds: Sequence[str | None] | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    cursor: str | None = ...,
    limit: int = ...,
    row_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "place account_id oauth_provider external_id customer_email charges free_charges "
    "credits_used last_charge_at"
)
def list_top_consumers(
    *,
    from_: date | None = ...,
    to: date | None = ...,
    sort: str = ...,
    limit: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "account_id purchase_id payment_id status credited uses price_minor currency price_text "
    "problem problem_text created_at ended_at"
)
def list_top_up_attempts(
    *,
    account_id: UUID | None = ...,
    limit: int = ...,
    offset: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "top_up_id account_id oauth_provider external_id status threshold packs amount_text "
    "monthly_cap_text card consent_version consent_text consent_at consent_by failures "
    "problem problem_text ended_at end_reason"
)
def list_top_ups(
    *,
    account_id: UUID | None = ...,
    status: str | None = ...,
    limit: int = ...,
    offset: int = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "total_count transaction_id type amount_minor currency description created_at "
    "balance_after transaction_type external_transaction_id metadata_message_id "
    "metadata_agent_id metadata_channel_id metadata_request_id paid_with ledger_version "
    "next_cursor free_uses_change corrects_id transfer_id reversed_minor writer_kind writer"
)
def list_transactions(
    *,
    oauth_provider: str,
    external_id: str,
    limit: int = ...,
    offset: int = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
    cursor: str | None = ...,
) -> None: ...


@function(
    "day charges free_charges credits_used credits_added credits_sold credits_taken_back "
    "currency sold_minor returned_minor"
)
def list_usage(
    *,
    from_: date | None = ...,
    to: date | None = ...,
    account_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "endpoint_id name url kinds status secret old_secret old_secret_until tried_at waiting "
    "failed created_at updated_at problem"
)
def list_webhook_endpoints(*, session_hash: bytes | None = ...) -> None: ...


@function(
    "merge_id merged_account_id account_id credits_moved balance_after free_uses_given "
    "free_uses_after takes_consent created_at replayed"
)
def merge_accounts(
    *,
    account_id: UUID,
    into_account_id: UUID,
    reason: str,
    idempotency_key: str | None = ...,
    dry_run: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function()
def note_delivery(
    *, delivery_id: UUID, attempt: int, answer_status: int | None = ..., error: str | None = ...
) -> None: ...


@function("next_step payment_id switched_off")
def note_top_up(
    *,
    account_id: UUID,
    purchase_id: UUID,
    outcome: str,
    payment_id: str | None = ...,
    problem: str | None = ...,
) -> None: ...


@function("schedule_id account_id next_at")
def pause_grant_schedule(
    *, schedule_id: UUID, reason: str, paused: bool = ..., session_hash: bytes | None = ...
) -> None: ...


@function("outcome needs_attention deliveries account_id purchase_id credits_added")
def process_payment_event(
    *,
    event_id: str,
    event_type: str,
    payload: str,
    action: str,
    livemode: bool | None = ...,
    payment_id: str | None = ...,
    amount_minor: int | None = ...,
    currency: str | None = ...,
    account_id: UUID | None = ...,
    purchase_id: UUID | None = ...,
    oauth_provider: str | None = ...,
    external_id: str | None = ...,
    return_ids: Sequence[str | None] = ...,
    return_kinds: Sequence[str | None] = ...,
    return_amounts_minor: Sequence[int | None] = ...,
    returns_withdrawn: Sequence[bool | None] | None = ...,
    provider: str = ...,
    return_away_minor: Sequence[int | None] | None = ...,
    return_states: Sequence[str | None] | None = ...,
    return_transactions: Sequence[int | None] | None = ...,
    occurred_at: datetime | None = ...,
    is_claimed: bool | None = ...,
    is_foreign: bool = ...,
    warning_id: str | None = ...,
    warning_is_open: bool | None = ...,
) -> None: ...


@function()
def read_money(*, amount_text: str, currency: str) -> None: ...


@function()
def record_api_key_use(
    *,
    api_key_ids: Sequence[UUID | None],
    used_at: Sequence[datetime | None],
    used_from: Sequence[str | None],
) -> None: ...


@function(
    "outcome credit_id account_id amount_minor currency balance_before balance_after "
    "transaction_type description external_transaction_id created_at balance account_currency"
)
def record_credit(
    *,
    oauth_provider: str,
    external_id: str,
    amount_minor: int,
    transaction_type: str,
    description: str,
    currency: str = ...,
    external_transaction_id: str | None = ...,
    idempotency_key: str | None = ...,
    customer_email: str | None = ...,
    user_role: str | None = ...,
    agent_id: str | None = ...,
    marketing_opt_in: bool = ...,
    marketing_opt_in_source: str | None = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
    expires_at: datetime | None = ...,
    priority: int | None = ...,
    source: str | None = ...,
    effective_at: datetime | None = ...,
) -> None: ...


@function()
def record_webhook_try(
    *, endpoint_id: UUID, url: str, error: str | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function()
def refresh_figures() -> None: ...


@function(
    "item outcome hold_id account_id amount_minor currency state paid_with captured_minor "
    "charge_id is_late description metadata_message_id metadata_agent_id metadata_channel_id "
    "metadata_request_id created_at expires_at settled_at balance held available "
    "free_uses_available account_currency cap"
)
def release_hold(
    *,
    hold_id: UUID,
    reason: str | None = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("account_id changed")
def remove_note(*, note_id: UUID, session_hash: bytes | None = ...) -> None: ...


@function()
def reopen_payment(
    *, payment_id: str, reason: str, provider: str | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function()
def require_api_key(*, api_key_id: UUID, permission: str) -> None: ...


@function()
def resend_deliveries(
    *,
    reason: str,
    delivery_id: UUID | None = ...,
    endpoint_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("free_uses_before free_uses_remaining")
def reset_free_uses(
    *, account_id: UUID, reason: str, free_uses: int | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function()
def resolve_payment(
    *,
    payment_id: str,
    how: str,
    reason: str,
    credit_id: UUID | None = ...,
    amount_minor: int | None = ...,
    currency: str | None = ...,
    provider: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function()
def resolve_payment_event(
    *,
    event_id: str,
    reason: str,
    provider: str | None = ...,
    session_hash: bytes | None = ...,
    how: str | None = ...,
    credit_id: UUID | None = ...,
) -> None: ...


@function()
def resolve_payment_warning(
    *, warning_id: str, reason: str, provider: str | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function()
def resolve_shortfall(
    *, return_id: str, reason: str, provider: str | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function()
def retire_expired_api_key(*, api_key_id: UUID) -> None: ...


@function(
    "reversal_id charge_id account_id amount_minor currency paid_with free_uses "
    "balance_before balance_after free_uses_remaining reversed_minor charge_minor reason "
    "created_at replayed"
)
def reverse_charge(
    *,
    charge_id: UUID,
    reason: str,
    amount: int | None = ...,
    idempotency_key: str | None = ...,
    dry_run: bool = ...,
    api_key_id: UUID | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "reversal_id credit_id account_id amount_minor currency balance_before balance_after "
    "reversed_minor credit_minor reason created_at replayed"
)
def reverse_credit(
    *,
    credit_id: UUID,
    reason: str,
    amount: int | None = ...,
    idempotency_key: str | None = ...,
    dry_run: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("api_key_id name key_prefix status")
def revoke_api_key(
    *, api_key_id: UUID, reason: str | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function("api_key_id name key_prefix environment permissions expires_at old_key_expires_at")
def rotate_api_key(
    *,
    api_key_id: UUID,
    key_prefix: str,
    key_hash: str,
    reason: str | None = ...,
    key_digest: bytes | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function()
def rotate_webhook_secret(
    *, endpoint_id: UUID, secret: str, reason: str, session_hash: bytes | None = ...
) -> None: ...


@function("day seals entries head")
def seal_entries(*, entries: int = ..., percent: int = ...) -> None: ...


@function("kind id name detail account_id at")
def search(*, search: str, limit: int = ..., session_hash: bytes | None = ...) -> None: ...


@function("account_id status previous_status")
def set_account_status(
    *,
    oauth_provider: str,
    external_id: str,
    status: str,
    reason: str,
    session_hash: bytes | None = ...,
) -> None: ...


@function("admin_user_id email full_name role is_active")
def set_admin(
    *,
    email: str,
    reason: str,
    role: str | None = ...,
    is_active: bool | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "cap_id scope subject subject_name period mode limit_minor used_minor left_minor "
    "window_start resets_at reached_at counts_from updated_at"
)
def set_cap(
    *,
    scope: str,
    period: str,
    limit_minor: int,
    reason: str,
    subject: str | None = ...,
    mode: str = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("schedule_id account_id next_at replayed")
def set_grant_schedule(
    *,
    account_id: UUID,
    amount: int,
    reason: str,
    repeat: str = ...,
    day: int | None = ...,
    rollover: bool = ...,
    lasts_days: int | None = ...,
    starts_at: datetime | None = ...,
    ends_at: datetime | None = ...,
    grants: int | None = ...,
    description: str | None = ...,
    priority: int | None = ...,
    source: str | None = ...,
    schedule_id: UUID | None = ...,
    idempotency_key: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function()
def set_low_balance(
    *, reason: str, threshold: int | None = ..., session_hash: bytes | None = ...
) -> None: ...


@function("free_uses pack_uses pack_price_minor pack_currency")
def set_pricing(
    *,
    reason: str,
    free_uses: int | None = ...,
    pack_uses: int | None = ...,
    pack_price_minor: int | None = ...,
    pack_currency: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("id provider_type is_active config_data mode updated_at")
def set_provider_config(
    *,
    provider_type: str,
    config_data: str = ...,
    is_active: bool | None = ...,
    reason: str | None = ...,
    unchanged_since: datetime | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("account_id top_up_id changed")
def set_top_up(
    *,
    oauth_provider: str,
    external_id: str,
    threshold: int,
    packs: int,
    amount_minor: int,
    currency: str,
    monthly_cap_minor: int,
    consent_version: str,
    consent_text: str,
    payment_id: str | None = ...,
    customer_id: str | None = ...,
    payment_method_id: str | None = ...,
    card: str | None = ...,
    api_key_id: UUID | None = ...,
) -> None: ...


@function("endpoint_id name url status previous_status")
def set_webhook_endpoint(
    *,
    endpoint_id: UUID,
    reason: str,
    name: str | None = ...,
    url: str | None = ...,
    kinds: Sequence[str | None] | None = ...,
    status: str | None = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("admin_user_id email full_name role")
def sign_in_admin(
    *,
    email: str,
    google_id: str,
    session_hash: bytes,
    full_name: str | None = ...,
    picture_url: str | None = ...,
) -> None: ...


@function(
    "kind at ledger_version type transaction_type paid_with amount_minor credits_change "
    "balance_after free_uses_change free_uses_after currency reason corrects_id transfer_id "
    "writer_kind writer transaction_id external_transaction_id metadata_message_id "
    "metadata_agent_id metadata_channel_id metadata_request_id"
)
def statement(
    *,
    account_id: UUID,
    from_: datetime | None = ...,
    to: datetime | None = ...,
    after: int | None = ...,
    through: int | None = ...,
    limit: int | None = ...,
    session_hash: bytes | None = ...,
    api_key_id: UUID | None = ...,
    follow: bool = ...,
) -> None: ...


@function()
def tidy_holds(*, accounts: int = ...) -> None: ...


@function("currency purchases paid gross_minor returned_minor gross_text returned_text net_text")
def total_purchases(
    *,
    account_id: UUID | None = ...,
    status: str | None = ...,
    payment_id: str | None = ...,
    from_: date | None = ...,
    to: date | None = ...,
    days_of: str = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function(
    "transfer_id from_account_id from_balance_before from_balance_after to_account_id "
    "to_balance_before to_balance_after amount_minor currency created_at replayed"
)
def transfer_credits(
    *,
    from_account_id: UUID,
    to_account_id: UUID,
    amount: int,
    reason: str,
    idempotency_key: str | None = ...,
    dry_run: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function()
def try_writing() -> None: ...


@function(
    "undo_id merge_id merged_account_id account_id credits_moved_back free_uses_given_back "
    "undone_at replayed"
)
def undo_merge(
    *,
    account_id: UUID,
    reason: str,
    idempotency_key: str | None = ...,
    dry_run: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...


@function("admin_user_id email full_name role")
def use_sign_in_link(*, ticket_hash: bytes, session_hash: bytes) -> None: ...


@function()
def use_sign_in_ticket(*, ticket_hash: bytes) -> None: ...


@function("accounts_checked mismatched payment_problems guard_faults")
def watch_books(*, known: Sequence[UUID | None] = ..., entries: int = ...) -> None: ...


@function("open_holds credits_held over_since newly_expired")
def watch_holds() -> None: ...


@function("waiting due_since failed")
def watch_outbox() -> None: ...


@function("account_id withdrawn_at changed")
def withdraw_consent(
    *,
    reason: str,
    account_id: UUID | None = ...,
    oauth_provider: str | None = ...,
    external_id: str | None = ...,
    undo: bool = ...,
    session_hash: bytes | None = ...,
) -> None: ...
