-- The schema after all migrations, function bodies, grants and comments left out.
-- Written by GOLDEN_UPDATE=1 pytest tests/sql/test_golden_schema.py; not for running.

CREATE SCHEMA billing;

CREATE SCHEMA billing_data;

CREATE TYPE billing.capture_item AS (
	hold_id uuid,
	amount_minor bigint,
	overage text,
	api_key_id uuid
);

CREATE TYPE billing.charge_item AS (
	oauth_provider text,
	external_id text,
	amount_minor bigint,
	currency text,
	description text,
	idempotency_key text,
	metadata_message_id text,
	metadata_agent_id text,
	metadata_channel_id text,
	metadata_request_id text,
	customer_email text,
	user_role text,
	agent_id text,
	marketing_opt_in boolean,
	marketing_opt_in_source text,
	api_key_id uuid
);

CREATE TYPE billing.charge_outcome AS (
	item integer,
	outcome text,
	charge_id uuid,
	account_id uuid,
	amount_minor bigint,
	currency text,
	description text,
	balance_before bigint,
	balance_after bigint,
	free_uses_after bigint,
	paid_with text,
	created_at timestamp with time zone,
	metadata_message_id text,
	metadata_agent_id text,
	metadata_channel_id text,
	metadata_request_id text,
	balance bigint,
	account_currency text,
	replayed boolean,
	cap jsonb
);

CREATE TYPE billing.check_item AS (
	oauth_provider text,
	external_id text,
	wa_id text,
	tenant_id text,
	context_agent_id text,
	context_channel_id text,
	context_request_id text,
	customer_email text,
	user_role text,
	agent_id text,
	marketing_opt_in boolean,
	marketing_opt_in_source text,
	api_key_id uuid
);

CREATE TYPE billing.check_outcome AS (
	item integer,
	outcome text,
	has_credit boolean,
	reason text,
	credits_remaining bigint,
	free_uses_remaining bigint,
	total_uses bigint,
	plan_name text,
	purchase_required boolean,
	purchase_price_minor bigint,
	purchase_uses bigint,
	account_created boolean,
	low_balance boolean,
	held bigint,
	next_expiry_at timestamp with time zone,
	next_expiry_amount_minor bigint
);

CREATE TYPE billing.hold_item AS (
	oauth_provider text,
	external_id text,
	amount_minor bigint,
	currency text,
	expires_in_seconds bigint,
	description text,
	idempotency_key text,
	metadata_message_id text,
	metadata_agent_id text,
	metadata_channel_id text,
	metadata_request_id text,
	api_key_id uuid
);

CREATE TYPE billing.hold_outcome AS (
	item integer,
	outcome text,
	hold_id uuid,
	account_id uuid,
	amount_minor bigint,
	currency text,
	state text,
	paid_with text,
	captured_minor bigint,
	charge_id uuid,
	is_late boolean,
	description text,
	metadata_message_id text,
	metadata_agent_id text,
	metadata_channel_id text,
	metadata_request_id text,
	created_at timestamp with time zone,
	expires_at timestamp with time zone,
	settled_at timestamp with time zone,
	balance bigint,
	held bigint,
	available bigint,
	free_uses_available bigint,
	account_currency text,
	cap jsonb
);

CREATE TYPE billing_data.actor AS (
	api_key_id uuid,
	admin_user_id uuid,
	database_role text
);

CREATE TYPE billing_data.cap_request AS (
	oauth_provider text,
	external_id text,
	amount_minor bigint,
	currency text,
	idempotency_key text,
	metadata_agent_id text,
	api_key_id uuid
);

CREATE TYPE billing_data.capped_item AS (
	item integer,
	cap_id uuid,
	amount_minor bigint
);

CREATE FUNCTION billing.add_admin(p_email text, p_full_name text DEFAULT NULL::text, p_role text DEFAULT 'viewer'::text, p_reason text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(admin_user_id uuid, email text, full_name text, role text, is_active boolean, created_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.add_note(p_account_id uuid, p_note text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(note_id uuid, account_id uuid, created_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.adjust_credits(p_account_id uuid DEFAULT NULL::uuid, p_amount bigint DEFAULT NULL::bigint, p_reason text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea, p_account_ids uuid[] DEFAULT NULL::uuid[], p_amounts bigint[] DEFAULT NULL::bigint[], p_dry_run boolean DEFAULT false, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_priority bigint DEFAULT NULL::bigint, p_source text DEFAULT NULL::text) RETURNS TABLE(account_id uuid, credit_id uuid, amount_minor bigint, balance_before bigint, balance_after bigint, created_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.announce_expiring_credits(p_most integer DEFAULT 500) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.attach_payment(p_account_id uuid, p_purchase_id uuid, p_payment_id text, p_payment_status text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(payment_id text, payment_status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.balance_at(p_account_id uuid, p_at timestamp with time zone, p_session_hash bytea DEFAULT NULL::bytea, p_api_key_id uuid DEFAULT NULL::uuid, p_follow boolean DEFAULT true) RETURNS TABLE(account_id uuid, at timestamp with time zone, state text, paid_credits bigint, free_uses bigint, ledger_version bigint, transaction_id uuid, type text, transaction_type text, amount_minor bigint, created_at timestamp with time zone, reason text, writer_kind text, writer text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.payment_providers (
    kind text NOT NULL,
    name text NOT NULL,
    place integer NOT NULL,
    is_offered boolean DEFAULT false NOT NULL,
    payment_id_prefix text,
    credential text DEFAULT 'api_key'::text NOT NULL,
    public_settings text[] DEFAULT '{}'::text[] NOT NULL,
    listed_settings text[] DEFAULT '{}'::text[] NOT NULL,
    CONSTRAINT payment_providers_credential CHECK ((((length(credential) >= 1) AND (length(credential) <= 100)) AND (credential <> ALL (public_settings)) AND (credential <> ALL (listed_settings)))),
    CONSTRAINT payment_providers_kind CHECK ((kind ~ '^[a-z][a-z0-9_]{0,49}$'::text)),
    CONSTRAINT payment_providers_name CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT payment_providers_payment_id_prefix CHECK (((length(payment_id_prefix) >= 2) AND (length(payment_id_prefix) <= 50)))
);

CREATE TABLE billing_data.provider_configs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    provider_type character varying(50) NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    config_data jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_by uuid,
    CONSTRAINT provider_configs_config_data CHECK ((octet_length((config_data)::text) <= 262144))
);

CREATE FUNCTION billing.default_payment_provider(p_to_sell boolean DEFAULT false) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.begin_purchase(p_oauth_provider text, p_external_id text, p_customer_email text, p_wa_id text DEFAULT NULL::text, p_tenant_id text DEFAULT NULL::text, p_user_role text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_marketing_opt_in boolean DEFAULT false, p_marketing_opt_in_source text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_provider text DEFAULT billing.default_payment_provider(p_to_sell => true), p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea, p_save_card boolean DEFAULT false) RETURNS TABLE(purchase_id uuid, account_id uuid, uses bigint, price_minor bigint, currency text, payment_id text, payment_status text, account_created boolean, replayed boolean, config_data jsonb, credits_added bigint, provider text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.begin_refund(p_payment_id text, p_reason text, p_amount_minor bigint DEFAULT NULL::bigint, p_idempotency_key text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_provider text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(refund_id uuid, account_id uuid, purchase_id uuid, provider text, payment_id text, amount_minor bigint, currency text, amount_text text, left_minor bigint, left_text text, credits_due bigint, credits_there bigint, reason text, created_at timestamp with time zone, return_id text, failure text, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.begin_verification(p_restart boolean DEFAULT false, p_entries bigint DEFAULT 500000) RETURNS TABLE(run_id bigint, started_at timestamp with time zone, ranges bigint, ranges_done bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.capture_hold(p_hold_id uuid, p_amount_minor bigint DEFAULT NULL::bigint, p_overage text DEFAULT 'refuse'::text, p_api_key_id uuid DEFAULT NULL::uuid) RETURNS billing.hold_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.capture_items(p_items billing.capture_item[], p_wait boolean DEFAULT true) RETURNS SETOF billing.hold_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing.change_grant_schedule(p_schedule_id uuid, p_reason text, p_amount bigint DEFAULT NULL::bigint, p_rollover boolean DEFAULT NULL::boolean, p_description text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(schedule_id uuid, account_id uuid, next_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.charge_items(p_items billing.charge_item[], p_wait boolean DEFAULT true) RETURNS SETOF billing.charge_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing.charge_items_once(p_idempotency_key text, p_request_fingerprint bytea, p_items billing.charge_item[], p_batch_fingerprint bytea DEFAULT NULL::bytea, p_wait boolean DEFAULT true) RETURNS SETOF billing.charge_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.check_and_hold(p_oauth_provider text, p_external_id text, p_amount_minor bigint, p_expires_in_seconds bigint DEFAULT 900, p_description text DEFAULT 'one use'::text, p_idempotency_key text DEFAULT NULL::text, p_wa_id text DEFAULT NULL::text, p_tenant_id text DEFAULT NULL::text, p_context_agent_id text DEFAULT NULL::text, p_context_channel_id text DEFAULT NULL::text, p_context_request_id text DEFAULT NULL::text, p_customer_email text DEFAULT NULL::text, p_user_role text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_marketing_opt_in boolean DEFAULT false, p_marketing_opt_in_source text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid) RETURNS TABLE(checked billing.check_outcome, hold billing.hold_outcome)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.check_credit(p_oauth_provider text, p_external_id text, p_wa_id text DEFAULT NULL::text, p_tenant_id text DEFAULT NULL::text, p_context_agent_id text DEFAULT NULL::text, p_context_channel_id text DEFAULT NULL::text, p_context_request_id text DEFAULT NULL::text, p_customer_email text DEFAULT NULL::text, p_user_role text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_marketing_opt_in boolean DEFAULT false, p_marketing_opt_in_source text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_only_plain boolean DEFAULT false) RETURNS TABLE(has_credit boolean, reason text, credits_remaining bigint, free_uses_remaining bigint, total_uses bigint, plan_name text, purchase_required boolean, purchase_price_minor bigint, purchase_uses bigint, low_balance boolean, held bigint, next_expiry_at timestamp with time zone, next_expiry_amount_minor bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing.check_credits(p_oauth_providers text[], p_external_ids text[], p_wa_ids text[] DEFAULT NULL::text[], p_tenant_ids text[] DEFAULT NULL::text[], p_context_agent_ids text[] DEFAULT NULL::text[], p_context_channel_ids text[] DEFAULT NULL::text[], p_context_request_ids text[] DEFAULT NULL::text[], p_customer_emails text[] DEFAULT NULL::text[], p_user_roles text[] DEFAULT NULL::text[], p_agent_ids text[] DEFAULT NULL::text[], p_marketing_opt_ins boolean[] DEFAULT NULL::boolean[], p_marketing_opt_in_sources text[] DEFAULT NULL::text[], p_api_key_ids uuid[] DEFAULT NULL::uuid[], p_wait boolean DEFAULT true) RETURNS TABLE(item integer, outcome text, has_credit boolean, reason text, credits_remaining bigint, free_uses_remaining bigint, total_uses bigint, plan_name text, purchase_required boolean, purchase_price_minor bigint, purchase_uses bigint, account_created boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.check_items(p_items billing.check_item[], p_wait boolean DEFAULT true) RETURNS SETOF billing.check_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing.claim_deliveries(p_most integer DEFAULT 10, p_busy uuid[] DEFAULT '{}'::uuid[]) RETURNS TABLE(delivery_id uuid, event_id uuid, endpoint_id uuid, attempt integer, url text, secrets jsonb, payload text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.claim_top_ups(p_limit bigint) RETURNS TABLE(account_id uuid, purchase_id uuid, oauth_provider text, external_id text, customer_email text, uses bigint, price_minor bigint, currency text, payment_id text, customer_id text, payment_method_id text, provider text, config_data jsonb)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing.continue_verification() RETURNS TABLE(run_id bigint, place bigint, accounts bigint, entries bigint, problem_count bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.count_audit_log(p_who text DEFAULT NULL::text, p_action text DEFAULT NULL::text, p_resource_id text DEFAULT NULL::text, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_entry_id uuid DEFAULT NULL::uuid, p_most bigint DEFAULT 10000, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(entries bigint, is_more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.count_caps(p_scope text DEFAULT NULL::text, p_account_id uuid DEFAULT NULL::uuid, p_most bigint DEFAULT 10000, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(caps bigint, is_more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.count_deliveries(p_endpoint_id uuid DEFAULT NULL::uuid, p_state text DEFAULT NULL::text, p_kind text DEFAULT NULL::text, p_account_id uuid DEFAULT NULL::uuid, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_most bigint DEFAULT 10000, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(deliveries bigint, is_more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.count_payment_events(p_payment_id text DEFAULT NULL::text, p_event_id text DEFAULT NULL::text, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_most bigint DEFAULT 10000, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(events bigint, is_more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.count_payment_problems(p_most bigint DEFAULT 10000, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(problems bigint, is_more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_account(p_oauth_provider text, p_external_id text, p_wa_id text DEFAULT NULL::text, p_tenant_id text DEFAULT NULL::text, p_initial_balance_minor bigint DEFAULT 0, p_currency text DEFAULT 'USD'::text, p_plan_name text DEFAULT 'free'::text, p_customer_email text DEFAULT NULL::text, p_user_role text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_marketing_opt_in boolean DEFAULT false, p_marketing_opt_in_source text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, oauth_provider text, external_id text, wa_id text, tenant_id text, customer_email text, balance_minor bigint, currency text, plan_name text, status text, paid_credits bigint, marketing_opt_in boolean, marketing_opt_in_at timestamp with time zone, marketing_opt_in_source text, created_at timestamp with time zone, updated_at timestamp with time zone, account_created boolean, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_api_key(p_name text, p_key_prefix text, p_key_hash text, p_environment text DEFAULT 'live'::text, p_permissions text[] DEFAULT ARRAY['billing:read'::text, 'billing:write'::text], p_description text DEFAULT NULL::text, p_expires_in_days integer DEFAULT NULL::integer, p_reason text DEFAULT NULL::text, p_key_digest bytea DEFAULT NULL::bytea, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(api_key_id uuid, name text, key_prefix text, environment text, permissions text[], status text, created_at timestamp with time zone, expires_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.create_charge(p_oauth_provider text, p_external_id text, p_amount_minor bigint DEFAULT 1, p_currency text DEFAULT 'USD'::text, p_description text DEFAULT 'one use'::text, p_idempotency_key text DEFAULT NULL::text, p_metadata_message_id text DEFAULT NULL::text, p_metadata_agent_id text DEFAULT NULL::text, p_metadata_channel_id text DEFAULT NULL::text, p_metadata_request_id text DEFAULT NULL::text, p_customer_email text DEFAULT NULL::text, p_user_role text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_marketing_opt_in boolean DEFAULT false, p_marketing_opt_in_source text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_only_plain boolean DEFAULT false) RETURNS TABLE(charge_id uuid, account_id uuid, amount_minor bigint, currency text, description text, balance_before bigint, balance_after bigint, free_uses_after bigint, paid_with text, created_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing.create_charges(p_oauth_providers text[], p_external_ids text[], p_amounts_minor bigint[], p_currencies text[], p_descriptions text[], p_idempotency_keys text[] DEFAULT NULL::text[], p_metadata_message_ids text[] DEFAULT NULL::text[], p_metadata_agent_ids text[] DEFAULT NULL::text[], p_metadata_channel_ids text[] DEFAULT NULL::text[], p_metadata_request_ids text[] DEFAULT NULL::text[], p_customer_emails text[] DEFAULT NULL::text[], p_user_roles text[] DEFAULT NULL::text[], p_agent_ids text[] DEFAULT NULL::text[], p_marketing_opt_ins boolean[] DEFAULT NULL::boolean[], p_marketing_opt_in_sources text[] DEFAULT NULL::text[], p_api_key_ids uuid[] DEFAULT NULL::uuid[], p_wait boolean DEFAULT true) RETURNS TABLE(item integer, outcome text, charge_id uuid, account_id uuid, amount_minor bigint, currency text, description text, balance_before bigint, balance_after bigint, free_uses_after bigint, paid_with text, created_at timestamp with time zone, metadata_message_id text, metadata_agent_id text, metadata_channel_id text, metadata_request_id text, balance bigint, account_currency text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_charges_once(p_idempotency_key text, p_request_fingerprint bytea, p_api_key_id uuid, p_oauth_providers text[], p_external_ids text[], p_amounts_minor bigint[], p_currencies text[], p_descriptions text[], p_idempotency_keys text[], p_metadata_message_ids text[], p_metadata_agent_ids text[], p_metadata_channel_ids text[], p_metadata_request_ids text[], p_customer_emails text[], p_user_roles text[], p_agent_ids text[], p_marketing_opt_ins boolean[], p_marketing_opt_in_sources text[], p_batch_fingerprint bytea DEFAULT NULL::bytea, p_wait boolean DEFAULT true) RETURNS TABLE(item integer, outcome text, charge_id uuid, account_id uuid, amount_minor bigint, currency text, description text, balance_before bigint, balance_after bigint, free_uses_after bigint, paid_with text, created_at timestamp with time zone, metadata_message_id text, metadata_agent_id text, metadata_channel_id text, metadata_request_id text, balance bigint, account_currency text, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_check_partitions(p_months integer DEFAULT 3, p_most_rows bigint DEFAULT NULL::bigint) RETURNS TABLE(partition_name text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_credit(p_oauth_provider text, p_external_id text, p_amount_minor bigint, p_transaction_type text DEFAULT 'grant'::text, p_description text DEFAULT 'Granted'::text, p_currency text DEFAULT 'USD'::text, p_external_transaction_id text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_priority bigint DEFAULT NULL::bigint, p_source text DEFAULT NULL::text, p_effective_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS TABLE(credit_id uuid, account_id uuid, amount_minor bigint, currency text, balance_before bigint, balance_after bigint, transaction_type text, description text, external_transaction_id text, created_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_hold(p_oauth_provider text, p_external_id text, p_amount_minor bigint, p_expires_in_seconds bigint DEFAULT 900, p_description text DEFAULT 'one use'::text, p_idempotency_key text DEFAULT NULL::text, p_currency text DEFAULT NULL::text, p_metadata_message_id text DEFAULT NULL::text, p_metadata_agent_id text DEFAULT NULL::text, p_metadata_channel_id text DEFAULT NULL::text, p_metadata_request_id text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_api_key_id uuid DEFAULT NULL::uuid) RETURNS billing.hold_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_sign_in_link(p_email text, p_ticket_hash bytea) RETURNS timestamp with time zone
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_sign_in_ticket(p_ticket_hash bytea) RETURNS timestamp with time zone
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.create_staff_token(p_token_hash bytea, p_email text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(admin_user_id uuid, email text, role text, expires_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.create_webhook_endpoint(p_name text, p_url text, p_secret jsonb, p_reason text, p_kinds text[] DEFAULT '{}'::text[], p_session_hash bytea DEFAULT NULL::bytea) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.delete_cap(p_cap_id uuid, p_reason text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(cap_id uuid, scope text, subject text, subject_name text, period text, mode text, limit_minor bigint, used_minor bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.delete_deliveries(p_before timestamp with time zone, p_rows bigint DEFAULT 500000) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.delete_refused_charges(p_before timestamp with time zone, p_rows bigint DEFAULT 500000) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.delete_webhook_endpoint(p_endpoint_id uuid, p_reason text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.money_text(p_amount_minor bigint, p_currency text, p_with_currency boolean DEFAULT true) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.most(p_field text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing.describe_money(p_amount_minor bigint, p_currency text, p_with_currency boolean DEFAULT true) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.describe_openings() RETURNS TABLE(reason text, accounts bigint, entries numeric, paid_credits numeric, total_uses numeric)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.describe_price(p_pack_price_minor bigint, p_pack_currency text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.drop_check_partitions(p_before timestamp with time zone, p_rows bigint DEFAULT 500000) RETURNS TABLE(partition_name text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.end_grant_schedule(p_schedule_id uuid, p_reason text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(schedule_id uuid, account_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.end_session(p_session_hash bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.end_staff_sessions(p_email text, p_reason text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.end_top_up(p_account_id uuid DEFAULT NULL::uuid, p_oauth_provider text DEFAULT NULL::text, p_external_id text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, changed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.erase_personal_data(p_account_id uuid, p_reason text, p_dry_run boolean DEFAULT false, p_force boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(table_name text, rows_erased bigint, obstacle text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.explain_account(p_account_id uuid, p_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(kind text, sentence text, what_helps text, since timestamp with time zone, is_over boolean, agent_id text, credits_needed bigint, payment_id text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.explain_denial(p_account_id uuid, p_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(sentence text, what_helps text, kind text, denied_at timestamp with time zone, reason text, refusals bigint, would_pass_now boolean, api_key_name text, api_key_prefix text, database_role text, agent_id text, channel_id text, request_id text, amount_minor bigint, currency text, paid_credits_then bigint, free_uses_then bigint, paid_credits_now bigint, free_uses_now bigint, status_now text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.export_personal_data(p_account_id uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS json
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.extend_hold(p_hold_id uuid, p_expires_in_seconds bigint DEFAULT 900, p_api_key_id uuid DEFAULT NULL::uuid) RETURNS billing.hold_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.find_account(p_account text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.api_keys (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    key_hash text NOT NULL,
    key_prefix character varying(20) NOT NULL,
    name character varying(255) NOT NULL,
    description text,
    environment character varying(10) NOT NULL,
    permissions character varying[] DEFAULT '{billing:read,billing:write}'::character varying[] NOT NULL,
    created_by uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    last_used_ip inet,
    status character varying(20) DEFAULT 'active'::character varying NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_by_role text,
    rotated_to uuid,
    credential uuid,
    CONSTRAINT api_keys_description CHECK ((length(description) <= 1000)),
    CONSTRAINT api_keys_key_hash_length CHECK ((length(key_hash) <= 255)),
    CONSTRAINT api_keys_one_author CHECK ((num_nonnulls(created_by, created_by_role) = 1)),
    CONSTRAINT api_keys_permissions CHECK ((cardinality(permissions) <= 50)),
    CONSTRAINT ck_api_keys_environment CHECK (((environment)::text = ANY ((ARRAY['test'::character varying, 'live'::character varying])::text[]))),
    CONSTRAINT ck_api_keys_status CHECK (((status)::text = ANY ((ARRAY['active'::character varying, 'rotating'::character varying, 'revoked'::character varying])::text[])))
)
WITH (fillfactor='70');

CREATE FUNCTION billing.find_api_key(p_key_prefix text) RETURNS TABLE(api_key_id uuid, key_hash text, acts_by_digest boolean)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.find_entry(p_transaction_id uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, ledger_version bigint, type text, transaction_type text, paid_with text, amount_minor bigint, balance_after bigint, created_at timestamp with time zone, reason text, corrects_id uuid, transfer_id uuid, writer_kind text, writer text, api_key_id uuid, admin_user_id uuid, audit_id uuid, database_login text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.find_purchase(p_payment_id text, p_provider text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(purchase_id uuid, account_id uuid, status text, uses bigint, price_minor bigint, currency text, credits_added bigint, created_at timestamp with time zone, settled_at timestamp with time zone, config_data jsonb, provider text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.finish_refund(p_refund_id uuid, p_return_id text DEFAULT NULL::text, p_failure text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(refund_id uuid, return_id text, failure text, finished_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_account(p_oauth_provider text, p_external_id text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, oauth_provider text, external_id text, wa_id text, tenant_id text, customer_email text, balance_minor bigint, currency text, plan_name text, status text, paid_credits bigint, marketing_opt_in boolean, marketing_opt_in_at timestamp with time zone, marketing_opt_in_source text, created_at timestamp with time zone, updated_at timestamp with time zone, free_uses_remaining bigint, total_uses bigint, user_role text, agent_id text, ledger_version bigint, held bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_account_by_id(p_account_id uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, oauth_provider text, external_id text, wa_id text, tenant_id text, customer_email text, user_role text, agent_id text, balance_minor bigint, currency text, plan_name text, status text, paid_credits bigint, free_uses_remaining bigint, total_uses bigint, ledger_version bigint, marketing_opt_in boolean, marketing_opt_in_at timestamp with time zone, marketing_opt_in_source text, created_at timestamp with time zone, updated_at timestamp with time zone, last_charge_at timestamp with time zone, last_credit_at timestamp with time zone, total_charged numeric, total_credited numeric, charge_count bigint, credit_count bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_account_holders(p_oauth_providers text[], p_external_ids text[], p_hold_ids uuid[] DEFAULT '{}'::uuid[]) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '50ms';

CREATE FUNCTION billing.get_admin(p_email text) RETURNS TABLE(admin_user_id uuid, email text, full_name text, role text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_figures(p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(checks bigint, checks_denied bigint, charges bigint, free_charges bigint, credits_used numeric, credits_added numeric, credits_sold numeric, credits_taken_back numeric, accounts bigint, users bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_hold(p_hold_id uuid, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS billing.hold_outcome
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_overview(p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(total_users bigint, active_users bigint, total_api_keys bigint, active_api_keys bigint, total_balance_minor numeric, total_charged_all_time numeric, total_credited_all_time numeric, charges_last_24h bigint, credits_last_24h bigint, charges_last_7d bigint, credits_last_7d bigint, payment_problems bigint, unique_users_30d bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_proof(p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(sealed_through date, head text, closed_at timestamp with time zone, entries_sealed bigint, verification_started_at timestamp with time zone, verified_at timestamp with time zone, ranges bigint, ranges_done bigint, accounts_verified bigint, entries_verified bigint, problems bigint, first_problem text, first_account_id uuid, is_behind boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.provider_mode(p_kind text, p_config_data jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_provider_config(p_provider_type text) RETURNS TABLE(is_active boolean, config_data jsonb, mode text, updated_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_schema_version() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_session(p_session_hash bytea) RETURNS TABLE(admin_user_id uuid, email text, full_name text, picture_url text, role text, expires_at timestamp with time zone, is_active boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.settings (
    id boolean DEFAULT true NOT NULL,
    free_uses bigint DEFAULT 3 NOT NULL,
    pack_uses bigint DEFAULT 20 NOT NULL,
    pack_price_minor bigint DEFAULT 500 NOT NULL,
    pack_currency text DEFAULT 'USD'::text NOT NULL,
    admin_email_domain text DEFAULT 'ciris.ai'::text NOT NULL,
    seeded_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    digests_since timestamp with time zone,
    low_balance bigint,
    CONSTRAINT settings_admin_email_domain CHECK ((length(admin_email_domain) <= 255)),
    CONSTRAINT settings_admin_email_domain_small CHECK ((admin_email_domain = lower(admin_email_domain))),
    CONSTRAINT settings_free_uses_non_negative CHECK ((free_uses >= 0)),
    CONSTRAINT settings_low_balance CHECK (((low_balance >= 1) AND (low_balance <= '1000000000000'::bigint))),
    CONSTRAINT settings_one_row CHECK (id),
    CONSTRAINT settings_pack_currency_code CHECK ((pack_currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT settings_pack_price_positive CHECK ((pack_price_minor > 0)),
    CONSTRAINT settings_pack_uses_positive CHECK ((pack_uses > 0))
);

CREATE FUNCTION billing.get_settings() RETURNS TABLE(free_uses bigint, pack_uses bigint, pack_price_minor bigint, pack_currency text, admin_email_domain text, low_balance bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_top_up(p_account_id uuid DEFAULT NULL::uuid, p_oauth_provider text DEFAULT NULL::text, p_external_id text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, top_up_id uuid, status text, threshold bigint, packs bigint, uses bigint, amount_minor bigint, currency text, amount_text text, monthly_cap_minor bigint, monthly_cap_text text, spent_this_month_minor bigint, spent_this_month_text text, card text, consent_version text, consent_text text, consent_at timestamp with time zone, failures bigint, problem text, problem_text text, next_attempt_at timestamp with time zone, ended_at timestamp with time zone, end_reason text, attempt_status text, attempt_payment_id text, attempt_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.get_webhook_endpoint(p_endpoint_id uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(endpoint_id uuid, name text, url text, status text, secrets jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.grant_credits(p_csv text, p_reason text, p_key_prefix text, p_dry_run boolean DEFAULT false) RETURNS TABLE(line bigint, account text, outcome text, credit_id uuid, amount_minor bigint, balance bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.help(p_search text DEFAULT ''::text) RETURNS TABLE(section text, name text, description text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.hold_items(p_items billing.hold_item[], p_wait boolean DEFAULT true, p_dry_run boolean DEFAULT false) RETURNS SETOF billing.hold_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing.invite_admin(p_email text, p_reason text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS timestamp with time zone
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.list_account_days(p_account_id uuid, p_days integer DEFAULT 30, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(day date, charges bigint, credits_used numeric)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_accounts(p_search text DEFAULT NULL::text, p_status text DEFAULT NULL::text, p_sort text DEFAULT 'newest'::text, p_match text DEFAULT 'prefix'::text, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_count boolean DEFAULT false, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_reverse boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(total_count bigint, account_id uuid, oauth_provider text, external_id text, wa_id text, tenant_id text, customer_email text, balance_minor bigint, currency text, plan_name text, status text, paid_credits bigint, free_uses_remaining bigint, total_uses bigint, created_at timestamp with time zone, last_charge_at timestamp with time zone, last_credit_at timestamp with time zone, total_charged numeric, total_credited numeric, charge_count bigint, credit_count bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_admins(p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(admin_user_id uuid, email text, full_name text, role text, is_active boolean, created_at timestamp with time zone, last_login_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_allocations(p_account_id uuid DEFAULT NULL::uuid, p_charge_id uuid DEFAULT NULL::uuid, p_before bigint DEFAULT NULL::bigint, p_limit bigint DEFAULT 50, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(charge_id uuid, ledger_version bigint, created_at timestamp with time zone, charge_minor bigint, lot_id uuid, credit_id uuid, in_pool boolean, amount_minor bigint, source text, expires_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_api_keys(p_environment text DEFAULT NULL::text, p_status text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(api_key_id uuid, name text, key_prefix text, environment text, permissions text[], status text, description text, created_at timestamp with time zone, expires_at timestamp with time zone, last_used_at timestamp with time zone, last_used_ip inet, rotated_to uuid, created_by_email text, created_by_role text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_audit_log(p_who text DEFAULT NULL::text, p_action text DEFAULT NULL::text, p_resource_id text DEFAULT NULL::text, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_entry_id uuid DEFAULT NULL::uuid, p_reverse boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(id uuid, created_at timestamp with time zone, who text, action text, resource_type text, resource_id text, reason text, changes jsonb, ip_address inet, user_agent text, database_login text, account_id uuid, account_name text, other_account_id uuid, other_account_name text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_book_problems() RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_caps(p_scope text DEFAULT NULL::text, p_account_id uuid DEFAULT NULL::uuid, p_cap_id uuid DEFAULT NULL::uuid, p_limit bigint DEFAULT 500, p_offset bigint DEFAULT 0, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(cap_id uuid, scope text, subject text, subject_name text, period text, mode text, limit_minor bigint, used_minor bigint, left_minor bigint, window_start timestamp with time zone, resets_at timestamp with time zone, reached_at timestamp with time zone, counts_from timestamp with time zone, updated_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_checks(p_account_id uuid, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(check_id uuid, has_credit boolean, denial_reason text, credits_remaining bigint, free_uses_remaining bigint, context_agent_id text, context_channel_id text, context_request_id text, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_daily_figures(p_days integer DEFAULT 30, p_to date DEFAULT NULL::date, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(day date, checks bigint, checks_denied bigint, charges bigint, free_charges bigint, charge_amount numeric, credits_used numeric, credits bigint, credits_added numeric, credits_sold numeric, credits_taken_back numeric, accounts_created bigint, unique_users bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_deliveries(p_endpoint_id uuid DEFAULT NULL::uuid, p_state text DEFAULT NULL::text, p_kind text DEFAULT NULL::text, p_account_id uuid DEFAULT NULL::uuid, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(delivery_id uuid, event_id uuid, endpoint_id uuid, endpoint_name text, kind text, account_id uuid, payload text, state text, attempts integer, created_at timestamp with time zone, due_at timestamp with time zone, attempted_at timestamp with time zone, answer_status integer, error text, settled_at timestamp with time zone, account text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_grant_schedules(p_account_id uuid DEFAULT NULL::uuid, p_all boolean DEFAULT false, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(schedule_id uuid, account_id uuid, state text, amount_minor bigint, currency text, repeat text, day bigint, rollover boolean, lasts_days bigint, expires_at timestamp with time zone, next_at timestamp with time zone, ends_at timestamp with time zone, grants_left bigint, grants bigint, source text, priority bigint, description text, reason text, who text, created_at timestamp with time zone, updated_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_holds(p_oauth_provider text DEFAULT NULL::text, p_external_id text DEFAULT NULL::text, p_account_id uuid DEFAULT NULL::uuid, p_state text DEFAULT NULL::text, p_after uuid DEFAULT NULL::uuid, p_limit bigint DEFAULT 50, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS SETOF billing.hold_outcome
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_hourly_figures(p_day date DEFAULT NULL::date, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(hour timestamp with time zone, checks bigint, checks_denied bigint, charges bigint, free_charges bigint, charge_amount numeric, credits_used numeric, credits bigint, credits_added numeric, credits_sold numeric, credits_taken_back numeric, accounts_created bigint, unique_users bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_lots(p_account_id uuid, p_all boolean DEFAULT false, p_pool boolean DEFAULT true, p_limit bigint DEFAULT 200, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(lot_id uuid, credit_id uuid, source text, in_pool boolean, amount_minor bigint, left_minor bigint, held_minor bigint, priority bigint, expires_at timestamp with time zone, created_at timestamp with time zone, description text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_merges(p_account_id uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(merge_id uuid, merged_account_id uuid, oauth_provider text, external_id text, customer_email text, account_id uuid, credits_moved bigint, free_uses_given bigint, reason text, who text, created_at timestamp with time zone, undone_at timestamp with time zone, undo_reason text, problem text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_money(p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(currency text, gross_minor numeric, refunded_minor numeric, net_minor numeric, gross_text text, refunded_text text, net_text text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_notes(p_account_id uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(note_id uuid, account_id uuid, created_at timestamp with time zone, who text, note text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_open_doors() RETURNS TABLE(door text, mend text, is_ours boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off';

CREATE FUNCTION billing.list_origins(p_account_id uuid, p_after bigint DEFAULT NULL::bigint, p_through bigint DEFAULT NULL::bigint, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(transaction_id uuid, origin jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_payment_events(p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_payment_id text DEFAULT NULL::text, p_event_id text DEFAULT NULL::text, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_reverse boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(provider text, event_id text, event_type text, payment_id text, account_id uuid, outcome text, needs_attention boolean, deliveries bigint, livemode boolean, received_at timestamp with time zone, last_received_at timestamp with time zone, resolved_at timestamp with time zone, resolution text, outcome_words text, account text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_payment_problems(p_limit bigint DEFAULT 100, p_offset bigint DEFAULT 0, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(problem text, provider text, reference text, payment_id text, account_id uuid, what_is_wrong text, happened_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_payments(p_payment_ids text[] DEFAULT '{}'::text[], p_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_provider text DEFAULT billing.default_payment_provider()) RETURNS TABLE(payment_id text, account_id uuid, purchase_id uuid, uses bigint, price_minor bigint, currency text, status text, settled_at timestamp with time zone, resolved boolean, return_ids text[], return_statuses text[], return_away_minor bigint[])
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_provider_configs(p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(id uuid, provider_type text, is_active boolean, config_data jsonb, mode text, updated_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_purchases(p_account_id uuid DEFAULT NULL::uuid, p_status text DEFAULT NULL::text, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_payment_id text DEFAULT NULL::text, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_sort text DEFAULT 'newest'::text, p_reverse boolean DEFAULT false, p_days_of text DEFAULT 'offered'::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(purchase_id uuid, account_id uuid, oauth_provider text, external_id text, customer_email text, provider text, payment_id text, status text, uses bigint, price_minor bigint, currency text, price_text text, created_at timestamp with time zone, settled_at timestamp with time zone, returned_minor numeric, uses_taken_back numeric, shortfall numeric, returned_text text, left_minor bigint, left_text text, livemode boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_refunds(p_payment_id text, p_provider text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(refund_id uuid, return_id text, kind text, state text, amount_minor bigint, currency text, amount_text text, away_minor bigint, away_text text, credits_due bigint, credits_taken bigint, who text, reason text, failure text, idempotency_key text, asked_text text, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_seal_heads(p_after date DEFAULT NULL::date) RETURNS TABLE(day date, head text, seals bigint, entries bigint, closed_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_seals(p_day date) RETURNS TABLE(account_id uuid, first_version bigint, last_version bigint, leaves text, digest text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_timeline(p_account_id uuid, p_kinds text[] DEFAULT NULL::text[], p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_cursor text DEFAULT NULL::text, p_limit bigint DEFAULT 50, p_row_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(kind text, at timestamp with time zone, id uuid, what text, reason text, writer_kind text, writer text, credits_change bigint, free_uses_change bigint, balance_after bigint, amount_minor bigint, currency text, amount_text text, paid_credits bigint, free_uses bigint, times bigint, payment_id text, message_id text, agent_id text, channel_id text, request_id text, corrects_id uuid, left_to_reverse bigint, audit_id uuid, audit_thing text, changes jsonb, next_cursor text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_top_consumers(p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_sort text DEFAULT 'uses'::text, p_limit bigint DEFAULT 20, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(place bigint, account_id uuid, oauth_provider text, external_id text, customer_email text, charges bigint, free_charges bigint, credits_used numeric, last_charge_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET work_mem TO '64MB';

CREATE FUNCTION billing.list_top_up_attempts(p_account_id uuid DEFAULT NULL::uuid, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, purchase_id uuid, payment_id text, status text, credited boolean, uses bigint, price_minor bigint, currency text, price_text text, problem text, problem_text text, created_at timestamp with time zone, ended_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_top_ups(p_account_id uuid DEFAULT NULL::uuid, p_status text DEFAULT NULL::text, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(top_up_id uuid, account_id uuid, oauth_provider text, external_id text, status text, threshold bigint, packs bigint, amount_text text, monthly_cap_text text, card text, consent_version text, consent_text text, consent_at timestamp with time zone, consent_by text, failures bigint, problem text, problem_text text, ended_at timestamp with time zone, end_reason text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_transactions(p_oauth_provider text, p_external_id text, p_limit bigint DEFAULT 50, p_offset bigint DEFAULT 0, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea, p_cursor text DEFAULT NULL::text) RETURNS TABLE(total_count bigint, transaction_id uuid, type text, amount_minor bigint, currency text, description text, created_at timestamp with time zone, balance_after bigint, transaction_type text, external_transaction_id text, metadata_message_id text, metadata_agent_id text, metadata_channel_id text, metadata_request_id text, paid_with text, ledger_version bigint, next_cursor text, free_uses_change bigint, corrects_id uuid, transfer_id uuid, reversed_minor bigint, writer_kind text, writer text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_usage(p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_account_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(day date, charges bigint, free_charges bigint, credits_used numeric, credits_added numeric, credits_sold numeric, credits_taken_back numeric, currency text, sold_minor numeric, returned_minor numeric)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.list_webhook_endpoints(p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(endpoint_id uuid, name text, url text, kinds text[], status text, secret text, old_secret text, old_secret_until timestamp with time zone, tried_at timestamp with time zone, waiting bigint, failed bigint, created_at timestamp with time zone, updated_at timestamp with time zone, problem text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.maintenance(p_keep interval DEFAULT '1 year 1 mon'::interval, p_steps text[] DEFAULT NULL::text[]) RETURNS TABLE(step text, outcome text, took interval, detail text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.merge_accounts(p_account_id uuid, p_into_account_id uuid, p_reason text, p_idempotency_key text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(merge_id uuid, merged_account_id uuid, account_id uuid, credits_moved bigint, balance_after bigint, free_uses_given bigint, free_uses_after bigint, takes_consent boolean, created_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.note_delivery(p_delivery_id uuid, p_attempt integer, p_answer_status integer DEFAULT NULL::integer, p_error text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.note_top_up(p_account_id uuid, p_purchase_id uuid, p_outcome text, p_payment_id text DEFAULT NULL::text, p_problem text DEFAULT NULL::text) RETURNS TABLE(next_step text, payment_id text, switched_off boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.pause_grant_schedule(p_schedule_id uuid, p_reason text, p_paused boolean DEFAULT true, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(schedule_id uuid, account_id uuid, next_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.process_payment_event(p_event_id text, p_event_type text, p_payload jsonb, p_action text, p_livemode boolean DEFAULT NULL::boolean, p_payment_id text DEFAULT NULL::text, p_amount_minor bigint DEFAULT NULL::bigint, p_currency text DEFAULT NULL::text, p_account_id uuid DEFAULT NULL::uuid, p_purchase_id uuid DEFAULT NULL::uuid, p_oauth_provider text DEFAULT NULL::text, p_external_id text DEFAULT NULL::text, p_return_ids text[] DEFAULT '{}'::text[], p_return_kinds text[] DEFAULT '{}'::text[], p_return_amounts_minor bigint[] DEFAULT '{}'::bigint[], p_returns_withdrawn boolean[] DEFAULT NULL::boolean[], p_provider text DEFAULT billing.default_payment_provider(), p_return_away_minor bigint[] DEFAULT NULL::bigint[], p_return_states text[] DEFAULT NULL::text[], p_return_transactions bigint[] DEFAULT NULL::bigint[], p_occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_is_claimed boolean DEFAULT NULL::boolean, p_is_foreign boolean DEFAULT false, p_warning_id text DEFAULT NULL::text, p_warning_is_open boolean DEFAULT NULL::boolean) RETURNS TABLE(outcome text, needs_attention boolean, deliveries bigint, account_id uuid, purchase_id uuid, credits_added bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.read_money(p_amount_text text, p_currency text) RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.rebuild_figures() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.record_api_key_use(p_api_key_ids uuid[], p_used_at timestamp with time zone[], p_used_from inet[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.record_credit(p_oauth_provider text, p_external_id text, p_amount_minor bigint, p_transaction_type text, p_description text, p_currency text DEFAULT 'USD'::text, p_external_transaction_id text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_customer_email text DEFAULT NULL::text, p_user_role text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_marketing_opt_in boolean DEFAULT false, p_marketing_opt_in_source text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_priority bigint DEFAULT NULL::bigint, p_source text DEFAULT NULL::text, p_effective_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS TABLE(outcome text, credit_id uuid, account_id uuid, amount_minor bigint, currency text, balance_before bigint, balance_after bigint, transaction_type text, description text, external_transaction_id text, created_at timestamp with time zone, balance bigint, account_currency text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.record_webhook_try(p_endpoint_id uuid, p_url text, p_error text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.refresh_figures() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.release_hold(p_hold_id uuid, p_reason text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS billing.hold_outcome
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.remove_note(p_note_id uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, changed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.reopen_payment(p_payment_id text, p_reason text, p_provider text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.require_api_key(p_api_key_id uuid, p_permission text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.reseal_webhook_secrets(p_endpoint_id uuid, p_secrets jsonb, p_reason text, p_unchanged_since timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.resend_deliveries(p_reason text, p_delivery_id uuid DEFAULT NULL::uuid, p_endpoint_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.reset_free_uses(p_account_id uuid, p_reason text, p_free_uses bigint DEFAULT NULL::bigint, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(free_uses_before bigint, free_uses_remaining bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.resolve_payment(p_payment_id text, p_how text, p_reason text, p_credit_id uuid DEFAULT NULL::uuid, p_amount_minor bigint DEFAULT NULL::bigint, p_currency text DEFAULT NULL::text, p_provider text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.resolve_payment_event(p_event_id text, p_reason text, p_provider text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea, p_how text DEFAULT NULL::text, p_credit_id uuid DEFAULT NULL::uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.resolve_payment_warning(p_warning_id text, p_reason text, p_provider text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.resolve_shortfall(p_return_id text, p_reason text, p_provider text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.retire_expired_api_key(p_api_key_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.return_payment(p_payment_id text, p_return_id text, p_kind text, p_amount_minor bigint, p_currency text DEFAULT 'USD'::text, p_withdrawn boolean DEFAULT true, p_provider text DEFAULT billing.default_payment_provider(), p_away_minor bigint DEFAULT NULL::bigint, p_state text DEFAULT NULL::text, p_transactions bigint DEFAULT NULL::bigint, p_read_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS TABLE(outcome text, account_id uuid, purchase_id uuid, away_minor bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.reverse_charge(p_charge_id uuid, p_reason text, p_amount bigint DEFAULT NULL::bigint, p_idempotency_key text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_api_key_id uuid DEFAULT NULL::uuid, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(reversal_id uuid, charge_id uuid, account_id uuid, amount_minor bigint, currency text, paid_with text, free_uses bigint, balance_before bigint, balance_after bigint, free_uses_remaining bigint, reversed_minor bigint, charge_minor bigint, reason text, created_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.reverse_credit(p_credit_id uuid, p_reason text, p_amount bigint DEFAULT NULL::bigint, p_idempotency_key text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(reversal_id uuid, credit_id uuid, account_id uuid, amount_minor bigint, currency text, balance_before bigint, balance_after bigint, reversed_minor bigint, credit_minor bigint, reason text, created_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.revoke_api_key(p_api_key_id uuid, p_reason text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(api_key_id uuid, name text, key_prefix text, status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.rotate_api_key(p_api_key_id uuid, p_key_prefix text, p_key_hash text, p_reason text DEFAULT NULL::text, p_key_digest bytea DEFAULT NULL::bytea, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(api_key_id uuid, name text, key_prefix text, environment text, permissions text[], expires_at timestamp with time zone, old_key_expires_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing.rotate_webhook_secret(p_endpoint_id uuid, p_secret jsonb, p_reason text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS timestamp with time zone
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.seal_entries(p_entries bigint DEFAULT 2000, p_percent integer DEFAULT 100) RETURNS TABLE(day date, seals bigint, entries bigint, head text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.search(p_search text, p_limit bigint DEFAULT 10, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(kind text, id text, name text, detail text, account_id uuid, at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.seed_founders(p_emails text[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.seed_settings(p_free_uses bigint DEFAULT NULL::bigint, p_pack_uses bigint DEFAULT NULL::bigint, p_pack_price_minor bigint DEFAULT NULL::bigint, p_pack_currency text DEFAULT NULL::text, p_admin_email_domain text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_account_status(p_oauth_provider text, p_external_id text, p_status text, p_reason text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, status text, previous_status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_admin(p_email text, p_reason text, p_role text DEFAULT NULL::text, p_is_active boolean DEFAULT NULL::boolean, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(admin_user_id uuid, email text, full_name text, role text, is_active boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_admin_domain(p_domain text, p_reason text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_cap(p_scope text, p_period text, p_limit_minor bigint, p_reason text, p_subject text DEFAULT NULL::text, p_mode text DEFAULT 'hard'::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(cap_id uuid, scope text, subject text, subject_name text, period text, mode text, limit_minor bigint, used_minor bigint, left_minor bigint, window_start timestamp with time zone, resets_at timestamp with time zone, reached_at timestamp with time zone, counts_from timestamp with time zone, updated_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_grant_schedule(p_account_id uuid, p_amount bigint, p_reason text, p_repeat text DEFAULT 'monthly'::text, p_day bigint DEFAULT NULL::bigint, p_rollover boolean DEFAULT false, p_lasts_days bigint DEFAULT NULL::bigint, p_starts_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_ends_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_grants bigint DEFAULT NULL::bigint, p_description text DEFAULT NULL::text, p_priority bigint DEFAULT NULL::bigint, p_source text DEFAULT NULL::text, p_schedule_id uuid DEFAULT NULL::uuid, p_idempotency_key text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(schedule_id uuid, account_id uuid, next_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_low_balance(p_reason text, p_threshold bigint DEFAULT NULL::bigint, p_session_hash bytea DEFAULT NULL::bytea) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_pricing(p_reason text, p_free_uses bigint DEFAULT NULL::bigint, p_pack_uses bigint DEFAULT NULL::bigint, p_pack_price_minor bigint DEFAULT NULL::bigint, p_pack_currency text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(free_uses bigint, pack_uses bigint, pack_price_minor bigint, pack_currency text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_provider_config(p_provider_type text, p_config_data jsonb DEFAULT '{}'::jsonb, p_is_active boolean DEFAULT NULL::boolean, p_reason text DEFAULT NULL::text, p_unchanged_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(id uuid, provider_type text, is_active boolean, config_data jsonb, mode text, updated_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_top_up(p_oauth_provider text, p_external_id text, p_threshold bigint, p_packs bigint, p_amount_minor bigint, p_currency text, p_monthly_cap_minor bigint, p_consent_version text, p_consent_text text, p_payment_id text DEFAULT NULL::text, p_customer_id text DEFAULT NULL::text, p_payment_method_id text DEFAULT NULL::text, p_card text DEFAULT NULL::text, p_api_key_id uuid DEFAULT NULL::uuid) RETURNS TABLE(account_id uuid, top_up_id uuid, changed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.set_webhook_endpoint(p_endpoint_id uuid, p_reason text, p_name text DEFAULT NULL::text, p_url text DEFAULT NULL::text, p_kinds text[] DEFAULT NULL::text[], p_status text DEFAULT NULL::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(endpoint_id uuid, name text, url text, status text, previous_status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.settle_items_once(p_idempotency_key text, p_request_fingerprint bytea, p_captures billing.capture_item[], p_items billing.charge_item[] DEFAULT '{}'::billing.charge_item[], p_batch_fingerprint bytea DEFAULT NULL::bytea, p_wait boolean DEFAULT true) RETURNS TABLE(charge billing.charge_outcome, capture billing.hold_outcome, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.settle_purchase(p_payment_id text, p_amount_minor bigint, p_currency text DEFAULT 'USD'::text, p_account_id uuid DEFAULT NULL::uuid, p_purchase_id uuid DEFAULT NULL::uuid, p_oauth_provider text DEFAULT NULL::text, p_external_id text DEFAULT NULL::text, p_provider text DEFAULT billing.default_payment_provider(), p_is_foreign boolean DEFAULT false) RETURNS TABLE(outcome text, account_id uuid, purchase_id uuid, credits_added bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.sign_in_admin(p_email text, p_google_id text, p_session_hash bytea, p_full_name text DEFAULT NULL::text, p_picture_url text DEFAULT NULL::text) RETURNS TABLE(admin_user_id uuid, email text, full_name text, role text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.statement(p_account_id uuid, p_from timestamp with time zone DEFAULT NULL::timestamp with time zone, p_to timestamp with time zone DEFAULT NULL::timestamp with time zone, p_after bigint DEFAULT NULL::bigint, p_through bigint DEFAULT NULL::bigint, p_limit bigint DEFAULT NULL::bigint, p_session_hash bytea DEFAULT NULL::bytea, p_api_key_id uuid DEFAULT NULL::uuid, p_follow boolean DEFAULT true) RETURNS TABLE(kind text, at timestamp with time zone, ledger_version bigint, type text, transaction_type text, paid_with text, amount_minor bigint, credits_change bigint, balance_after bigint, free_uses_change bigint, free_uses_after bigint, currency text, reason text, corrects_id uuid, transfer_id uuid, writer_kind text, writer text, transaction_id uuid, external_transaction_id text, metadata_message_id text, metadata_agent_id text, metadata_channel_id text, metadata_request_id text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.tidy_holds(p_accounts bigint DEFAULT 500) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.total_purchases(p_account_id uuid DEFAULT NULL::uuid, p_status text DEFAULT NULL::text, p_payment_id text DEFAULT NULL::text, p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_days_of text DEFAULT 'offered'::text, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(currency text, purchases bigint, paid bigint, gross_minor numeric, returned_minor numeric, gross_text text, returned_text text, net_text text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.transfer_credits(p_from_account_id uuid, p_to_account_id uuid, p_amount bigint, p_reason text, p_idempotency_key text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(transfer_id uuid, from_account_id uuid, from_balance_before bigint, from_balance_after bigint, to_account_id uuid, to_balance_before bigint, to_balance_after bigint, amount_minor bigint, currency text, created_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.try_writing() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms';

CREATE FUNCTION billing.undo_merge(p_account_id uuid, p_reason text, p_idempotency_key text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(undo_id uuid, merge_id uuid, merged_account_id uuid, account_id uuid, credits_moved_back bigint, free_uses_given_back bigint, undone_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.use_sign_in_link(p_ticket_hash bytea, p_session_hash bytea) RETURNS TABLE(admin_user_id uuid, email text, full_name text, role text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.use_sign_in_ticket(p_ticket_hash bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.verify_ledger(p_account_id uuid DEFAULT NULL::uuid, p_after uuid DEFAULT NULL::uuid, p_through uuid DEFAULT NULL::uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET work_mem TO '128MB'
    SET plan_cache_mode TO 'force_custom_plan';

CREATE FUNCTION billing.watch_books(p_known uuid[] DEFAULT '{}'::uuid[], p_entries bigint DEFAULT 500) RETURNS TABLE(accounts_checked bigint, mismatched uuid[], payment_problems bigint, guard_faults bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.watch_holds() RETURNS TABLE(open_holds bigint, credits_held bigint, over_since timestamp with time zone, newly_expired bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.watch_outbox() RETURNS TABLE(waiting bigint, due_since timestamp with time zone, failed bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing.withdraw_consent(p_reason text, p_account_id uuid DEFAULT NULL::uuid, p_oauth_provider text DEFAULT NULL::text, p_external_id text DEFAULT NULL::text, p_undo boolean DEFAULT false, p_session_hash bytea DEFAULT NULL::bytea) RETURNS TABLE(account_id uuid, withdrawn_at timestamp with time zone, changed boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.account_of_entry(p_resource_type text, p_resource_id text, p_changes jsonb) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.account_of_identity(p_oauth_provider text, p_external_id text) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.surviving_account(p_account_id uuid) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.account_to_hold(p_id uuid, p_status text) RETURNS uuid
    LANGUAGE sql STABLE;

CREATE TABLE billing_data.accounts (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    oauth_provider character varying(255) NOT NULL,
    external_id character varying(255) NOT NULL,
    wa_id character varying(255),
    tenant_id character varying(255),
    balance_minor bigint DEFAULT 0 NOT NULL,
    currency character varying(3) DEFAULT 'USD'::character varying NOT NULL,
    plan_name character varying(100) DEFAULT 'free'::character varying NOT NULL,
    status character varying(20) DEFAULT 'active'::character varying NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    free_uses_remaining bigint DEFAULT 3 NOT NULL,
    total_uses bigint DEFAULT 0 NOT NULL,
    marketing_opt_in boolean DEFAULT false NOT NULL,
    marketing_opt_in_at timestamp with time zone,
    marketing_opt_in_source character varying(50),
    user_role character varying(50),
    agent_id character varying(255),
    customer_email character varying(255),
    paid_credits bigint DEFAULT 0 NOT NULL,
    ledger_version bigint DEFAULT 0 NOT NULL,
    free_uses_granted bigint DEFAULT 3 NOT NULL,
    marketing_withdrawn_at timestamp with time zone,
    held_credits bigint DEFAULT 0 NOT NULL,
    held_free_uses bigint DEFAULT 0 NOT NULL,
    due_at timestamp with time zone,
    has_lots boolean DEFAULT false NOT NULL,
    CONSTRAINT accounts_held CHECK (((held_credits >= 0) AND (held_credits <= paid_credits) AND (held_free_uses >= 0) AND (held_free_uses <= free_uses_remaining))),
    CONSTRAINT accounts_ledger_version_non_negative CHECK ((ledger_version >= 0)),
    CONSTRAINT ck_account_status CHECK (((status)::text = ANY ((ARRAY['active'::character varying, 'suspended'::character varying, 'closed'::character varying, 'merged'::character varying])::text[]))),
    CONSTRAINT ck_balance_non_negative CHECK ((balance_minor >= 0)),
    CONSTRAINT ck_free_uses_non_negative CHECK ((free_uses_remaining >= 0)),
    CONSTRAINT ck_paid_credits_non_negative CHECK ((paid_credits >= 0)),
    CONSTRAINT ck_total_uses_non_negative CHECK ((total_uses >= 0))
)
WITH (fillfactor='75');

CREATE FUNCTION billing_data.account_totals(p_account billing_data.accounts) RETURNS TABLE(last_charge_at timestamp with time zone, last_credit_at timestamp with time zone, total_charged numeric, total_credited numeric, charge_count bigint, credit_count bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.accounts_of_person(p_account_id uuid) RETURNS uuid[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.accounts_searched() RETURNS bigint
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION billing_data.accounts_to_charge(p_items billing.charge_item[], OUT ids uuid[], OUT changes_profiles boolean, OUT items billing.charge_item[]) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.active_provider_config(p_provider text) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.admin_audit_logs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    admin_user_id uuid,
    action character varying(100) NOT NULL,
    resource_type character varying(50) NOT NULL,
    resource_id character varying(255),
    changes jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    database_role text,
    reason text,
    database_login text DEFAULT SESSION_USER,
    CONSTRAINT admin_audit_logs_changes CHECK ((octet_length((changes)::text) <= 1048576)),
    CONSTRAINT admin_audit_logs_reason CHECK ((length(reason) <= 1000)),
    CONSTRAINT admin_audit_logs_user_agent CHECK ((length(user_agent) <= 500))
);

CREATE FUNCTION billing_data.acts_on_accounts(p_account_ids uuid[]) RETURNS SETOF billing_data.admin_audit_logs
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.adjust_account(p_account_id uuid, p_asked_id uuid, p_amount bigint, p_reason text, p_idempotency_key text, p_dry_run boolean, p_actor billing_data.actor, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_priority bigint DEFAULT NULL::bigint, p_source text DEFAULT NULL::text) RETURNS TABLE(credit_id uuid, amount_minor bigint, balance_before bigint, balance_after bigint, created_at timestamp with time zone, replayed boolean)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.alert_kinds() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE TABLE billing_data.credits (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    currency character varying(3) NOT NULL,
    balance_before bigint NOT NULL,
    balance_after bigint NOT NULL,
    transaction_type character varying(20) NOT NULL,
    description character varying NOT NULL,
    external_transaction_id character varying(255),
    idempotency_key character varying(255),
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ledger_version bigint NOT NULL,
    request_fingerprint bytea,
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    payment_provider text,
    digest bigint,
    corrects_charge_id uuid,
    corrects_credit_id uuid,
    transfer_id uuid,
    free_uses bigint,
    CONSTRAINT ck_credit_balance_consistency CHECK ((balance_after = (balance_before + amount_minor))),
    CONSTRAINT ck_transaction_type CHECK (((transaction_type)::text = ANY ((ARRAY['purchase'::character varying, 'grant'::character varying, 'refund'::character varying, 'adjustment'::character varying])::text[]))),
    CONSTRAINT credits_amount CHECK (((amount_minor > 0) OR (((transaction_type)::text = ANY ((ARRAY['refund'::character varying, 'adjustment'::character varying])::text[])) AND ((amount_minor < 0) OR (free_uses IS NOT NULL))))),
    CONSTRAINT credits_balance_after_non_negative CHECK ((balance_after >= 0)),
    CONSTRAINT credits_balance_non_negative CHECK ((balance_before >= 0)),
    CONSTRAINT credits_corrects_charge CHECK (((corrects_charge_id IS NULL) OR (((transaction_type)::text = 'refund'::text) AND (amount_minor >= 0) AND (NOT (free_uses IS DISTINCT FROM
CASE
    WHEN (amount_minor = 0) THEN 1
    ELSE NULL::integer
END)) AND (num_nonnulls(corrects_credit_id, transfer_id) = 0)))),
    CONSTRAINT credits_corrects_credit CHECK (((corrects_credit_id IS NULL) OR (((transaction_type)::text = 'adjustment'::text) AND (corrects_credit_id <> id)))),
    CONSTRAINT credits_description CHECK ((length((description)::text) <= 1000)),
    CONSTRAINT credits_free_uses CHECK (((free_uses IS NULL) OR ((free_uses <> 0) AND (num_nonnulls(corrects_charge_id, transfer_id) > 0)))),
    CONSTRAINT credits_ledger_version_positive CHECK ((ledger_version > 0)),
    CONSTRAINT credits_one_writer CHECK ((num_nonnulls(api_key_id, admin_user_id, database_role, payment_provider) = 1)),
    CONSTRAINT credits_transfer CHECK (((transfer_id IS NULL) OR ((transaction_type)::text = 'adjustment'::text)))
);

CREATE FUNCTION billing_data.append_credit(p_account billing_data.accounts, p_amount_minor bigint, p_transaction_type text, p_description text, p_external_transaction_id text, p_idempotency_key text, p_request_fingerprint bytea, p_now timestamp with time zone, p_api_key_id uuid, p_admin_user_id uuid, p_database_role text, p_payment_provider text, p_credit_id uuid DEFAULT NULL::uuid, p_corrects_charge_id uuid DEFAULT NULL::uuid, p_corrects_credit_id uuid DEFAULT NULL::uuid, p_transfer_id uuid DEFAULT NULL::uuid, p_free_uses bigint DEFAULT NULL::bigint, p_own_id uuid DEFAULT NULL::uuid) RETURNS billing_data.credits
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.append_reversal(p_account billing_data.accounts, p_entry_minor bigint, p_part bigint, p_credits bigint, p_free_uses bigint, p_charge_id uuid, p_credit_id uuid, p_reason text, p_idempotency_key text, p_fingerprint bytea, p_actor billing_data.actor) RETURNS billing_data.credits
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.append_transfer(p_transfer_id uuid, p_from billing_data.accounts, p_to billing_data.accounts, p_amount bigint, p_free_uses_taken bigint, p_free_uses_given bigint, p_reason text, p_idempotency_key text, p_fingerprint bytea, p_now timestamp with time zone, p_actor billing_data.actor, p_own_id uuid DEFAULT NULL::uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.apply_profiles(p_items billing.charge_item[], p_locked uuid[], p_role text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off';

CREATE TABLE billing_data.payment_returns (
    account_id uuid NOT NULL,
    provider text NOT NULL,
    return_id character varying(255) NOT NULL,
    purchase_id uuid NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    amount_minor bigint NOT NULL,
    uses_due bigint DEFAULT 0 NOT NULL,
    uses_taken bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    resolved_at timestamp with time zone,
    resolution text,
    away_minor bigint NOT NULL,
    state text NOT NULL,
    transactions bigint,
    as_of timestamp with time zone NOT NULL,
    CONSTRAINT payment_returns_amount_positive CHECK ((amount_minor > 0)),
    CONSTRAINT payment_returns_away CHECK (((away_minor >= 0) AND (away_minor <= amount_minor))),
    CONSTRAINT payment_returns_kind CHECK ((kind = ANY (ARRAY['refund'::text, 'dispute'::text]))),
    CONSTRAINT payment_returns_nothing_away CHECK (((status = 'restored'::text) = (away_minor = 0))),
    CONSTRAINT payment_returns_nothing_due CHECK (((status = 'taken'::text) OR (uses_due = 0))),
    CONSTRAINT payment_returns_resolution CHECK ((length(resolution) <= 500)),
    CONSTRAINT payment_returns_resolved CHECK (((resolved_at IS NULL) = (resolution IS NULL))),
    CONSTRAINT payment_returns_state CHECK ((state = ANY (ARRAY['inquiry'::text, 'open'::text, 'closed'::text]))),
    CONSTRAINT payment_returns_status CHECK ((status = ANY (ARRAY['waiting'::text, 'taken'::text, 'restored'::text]))),
    CONSTRAINT payment_returns_transactions CHECK ((transactions >= 0)),
    CONSTRAINT payment_returns_uses CHECK (((uses_taken >= 0) AND (uses_taken <= uses_due)))
)
WITH (fillfactor='80');

CREATE TABLE billing_data.purchases (
    account_id uuid NOT NULL,
    id uuid NOT NULL,
    provider text NOT NULL,
    payment_id character varying(255),
    uses bigint NOT NULL,
    price_minor bigint NOT NULL,
    currency character varying(3) NOT NULL,
    customer_email character varying(255),
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    settled_at timestamp with time zone,
    payment_status text,
    idempotency_key character varying(255),
    request_fingerprint bytea,
    credit_id uuid,
    CONSTRAINT purchases_one_writer CHECK ((num_nonnulls(api_key_id, admin_user_id, database_role) = 1)),
    CONSTRAINT purchases_payment_status CHECK ((length(payment_status) <= 255)),
    CONSTRAINT purchases_price_positive CHECK ((price_minor > 0)),
    CONSTRAINT purchases_settled CHECK (((num_nonnulls(settled_at, credit_id) = 0) OR (num_nonnulls(settled_at, credit_id, payment_id) = 3))),
    CONSTRAINT purchases_uses_positive CHECK ((uses > 0))
)
WITH (fillfactor='80');

CREATE FUNCTION billing_data.apply_return(p_purchase billing_data.purchases, p_told billing_data.payment_returns, p_read_at timestamp with time zone, p_database_role text, p_payment_provider text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.argument_meanings() RETURNS TABLE(function_name text, argument text, meaning text)
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.audit_filter(p_who text, p_action text, p_resource_id text, p_from date, p_to date, p_entry_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.audit_rows_of_person(p_account_ids uuid[]) RETURNS TABLE(id uuid)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.authorize(p_api_key_id uuid, p_session_hash bytea, p_permission text) RETURNS billing_data.actor
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.available_credits(p_account billing_data.accounts) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.awaits_top_up(p_account_id uuid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_empty(p_free_uses bigint, p_paid_credits bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.is_low(p_threshold bigint, p_free_uses bigint, p_paid_credits bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.balance_alerts(p_threshold bigint, p_free_before bigint, p_paid_before bigint, p_free_after bigint, p_paid_after bigint) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.balance_before(p_account billing_data.accounts, p_version bigint, p_before timestamp with time zone) RETURNS TABLE(state text, paid_credits bigint, free_uses bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.batches_of_person(p_account_ids uuid[]) RETURNS TABLE(api_key_id uuid, idempotency_key text, created_at timestamp with time zone, outcome jsonb)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.begin_caps(p_items billing_data.cap_request[], p_locked uuid[], p_now timestamp with time zone, p_wait boolean, p_dry_run boolean DEFAULT false, OUT capped billing_data.capped_item[], OUT is_near boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.begin_top_up_attempt(p_top_up_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.book_for_checks(p_items billing.check_item[], p_rest boolean[], p_busy boolean[], p_wait boolean) RETURNS boolean[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.book_return(p_purchase billing_data.purchases, p_return billing_data.payment_returns, p_away_minor bigint, p_database_role text, p_payment_provider text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.bring_up_to_date(p_account_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.is_name_of_provider(p_name text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_web_tier() RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.refuse_caller(p_names_actor boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.caller_role() RETURNS text
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.instant_text(p_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.window_end(p_period text, p_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.cap_resets_at(p_period text, p_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE TABLE billing_data.caps (
    id uuid NOT NULL,
    scope text NOT NULL,
    subject text NOT NULL,
    period text NOT NULL,
    mode text NOT NULL,
    limit_minor bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    made_for uuid,
    CONSTRAINT caps_limit CHECK ((limit_minor >= 0)),
    CONSTRAINT caps_made_for CHECK (((scope = 'account'::text) = (made_for IS NOT NULL))),
    CONSTRAINT caps_mode CHECK ((mode = ANY (ARRAY['hard'::text, 'alert'::text]))),
    CONSTRAINT caps_period CHECK ((period = ANY (ARRAY['minute'::text, 'day'::text, 'month'::text]))),
    CONSTRAINT caps_scope CHECK ((scope = ANY (ARRAY['all'::text, 'api_key'::text, 'account'::text, 'agent'::text]))),
    CONSTRAINT caps_subject CHECK ((((scope = 'all'::text) = (subject = ''::text)) AND (length(subject) <= 255)))
)
WITH (fillfactor='80');

CREATE FUNCTION billing_data.cap_alert(p_cap billing_data.caps, p_used bigint, p_now timestamp with time zone) RETURNS jsonb
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.cap_refusal(p_cap billing_data.caps, p_used bigint, p_required bigint, p_now timestamp with time zone) RETURNS jsonb
    LANGUAGE sql STABLE;

CREATE TABLE billing_data.holds (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    free_uses bigint NOT NULL,
    currency character varying(3) NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    charge_id uuid,
    captured_minor bigint,
    capture_asked bigint,
    capture_overage text,
    is_late boolean DEFAULT false NOT NULL,
    description character varying(1000) NOT NULL,
    idempotency_key character varying(255),
    request_fingerprint bytea NOT NULL,
    metadata_message_id character varying(255),
    metadata_agent_id character varying(255),
    metadata_channel_id character varying(255),
    metadata_request_id character varying(255),
    api_key_id uuid,
    database_role text,
    CONSTRAINT holds_amount CHECK (((amount_minor > 0) AND (free_uses = ANY (ARRAY[(0)::bigint, (1)::bigint])))),
    CONSTRAINT holds_captured CHECK (
CASE
    WHEN (state = 'captured'::text) THEN ((num_nulls(captured_minor, capture_asked, capture_overage) = 0) AND (captured_minor >= 0) AND (captured_minor <= capture_asked) AND ((captured_minor > 0) = (charge_id IS NOT NULL)) AND ((captured_minor <= amount_minor) OR (capture_overage = 'available'::text)))
    ELSE (num_nonnulls(captured_minor, capture_asked, capture_overage, charge_id) = 0)
END),
    CONSTRAINT holds_in_order CHECK ((expires_at > created_at)),
    CONSTRAINT holds_one_writer CHECK ((num_nonnulls(api_key_id, database_role) = 1)),
    CONSTRAINT holds_overage CHECK ((capture_overage = ANY (ARRAY['refuse'::text, 'available'::text]))),
    CONSTRAINT holds_settled CHECK (((settled_at IS NOT NULL) = (state = ANY (ARRAY['captured'::text, 'released'::text])))),
    CONSTRAINT holds_state CHECK ((state = ANY (ARRAY['open'::text, 'captured'::text, 'released'::text, 'expired'::text])))
)
WITH (fillfactor='85');

CREATE FUNCTION billing_data.cap_room(p_hold billing_data.holds, p_now timestamp with time zone) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.cap_slug(p_refusal jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.cap_subject(p_scope text, p_subject text, p_session_hash bytea) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.cap_text(p_refusal jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION billing_data.cap_that_refuses(p_account_id uuid, p_api_key_id uuid, p_agent_id text, p_amount bigint, p_now timestamp with time zone) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.capped_items(p_items billing_data.cap_request[], p_locked uuid[]) RETURNS billing_data.capped_item[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.caps_of(p_account_id uuid, p_api_key_id uuid, p_agent_id text) RETURNS SETOF billing_data.caps
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.caps_that_counted(p_account_id uuid, p_api_key_id uuid, p_agent_id text) RETURNS SETOF billing_data.caps
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.capture_lots(p_hold billing_data.holds, p_account_id uuid, p_charge_id uuid, p_captured bigint, p_available bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.capture_round(p_items billing.capture_item[], p_left boolean[], p_locked uuid[], p_role text, p_now timestamp with time zone, p_is_capped boolean) RETURNS billing.hold_outcome[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.captured_hold(p_hold billing_data.holds, p_charge_id uuid, p_captured bigint, p_now timestamp with time zone) RETURNS billing_data.holds
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.captured_now(p_outcomes billing.hold_outcome[]) RETURNS uuid[]
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.account_merges (
    id uuid NOT NULL,
    merged_account_id uuid NOT NULL,
    account_id uuid NOT NULL,
    credits bigint NOT NULL,
    free_uses_taken bigint NOT NULL,
    free_uses_given bigint NOT NULL,
    balance_after bigint NOT NULL,
    free_uses_after bigint NOT NULL,
    consent_before jsonb,
    ledger_version bigint NOT NULL,
    reason text NOT NULL,
    idempotency_key text,
    request_fingerprint bytea NOT NULL,
    admin_user_id uuid,
    database_role text,
    created_at timestamp with time zone NOT NULL,
    undo_id uuid,
    undo_reason text,
    undo_key text,
    undone_at timestamp with time zone,
    CONSTRAINT account_merges_another CHECK ((merged_account_id <> account_id)),
    CONSTRAINT account_merges_key CHECK (((length(idempotency_key) <= 255) AND (length(undo_key) <= 255))),
    CONSTRAINT account_merges_moved CHECK (((credits >= 0) AND (free_uses_given >= 0) AND (free_uses_taken >= free_uses_given))),
    CONSTRAINT account_merges_one_writer CHECK ((num_nonnulls(admin_user_id, database_role) = 1)),
    CONSTRAINT account_merges_reason CHECK (((length(reason) <= 500) AND (length(undo_reason) <= 500))),
    CONSTRAINT account_merges_undone CHECK ((num_nonnulls(undo_id, undo_reason, undone_at) = ANY (ARRAY[0, 3])))
);

CREATE FUNCTION billing_data.carry_out_merge(p_plan billing_data.account_merges, p_merged billing_data.accounts, p_account billing_data.accounts, p_actor billing_data.actor) RETURNS billing_data.account_merges
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.carry_out_undo(p_merge billing_data.account_merges, p_actor billing_data.actor) RETURNS billing_data.account_merges
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.change_profile(p_account_id uuid, p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean, p_marketing_opt_in_source text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.changes_profile(p_account billing_data.accounts, p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean) RETURNS boolean
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION billing_data.changes_with_names(p_changes jsonb, p_account_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.charge_crosses(p_threshold bigint, p_paid_with text, p_balance_before bigint, p_balance_after bigint, p_free_uses_after bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.new_charge_digest(p_account_id uuid, p_ledger_version bigint, p_id uuid, p_amount_minor bigint, p_currency character varying, p_balance_before bigint, p_balance_after bigint, p_free_uses_after bigint, p_paid_with text, p_description character varying, p_idempotency_key character varying, p_request_fingerprint bytea, p_created_at timestamp with time zone, p_api_key_id uuid, p_admin_user_id uuid, p_database_role text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE TABLE billing_data.charges (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    currency character varying(3) NOT NULL,
    balance_before bigint NOT NULL,
    balance_after bigint NOT NULL,
    description character varying NOT NULL,
    idempotency_key character varying(255),
    metadata_message_id character varying(255),
    metadata_agent_id character varying(255),
    metadata_channel_id character varying(255),
    metadata_request_id character varying(255),
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ledger_version bigint NOT NULL,
    paid_with text NOT NULL,
    free_uses_after bigint,
    request_fingerprint bytea,
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    digest bigint,
    CONSTRAINT charges_balance_chain CHECK ((balance_after = (balance_before -
CASE paid_with
    WHEN 'paid'::text THEN amount_minor
    ELSE (0)::bigint
END))),
    CONSTRAINT charges_balance_non_negative CHECK ((balance_after >= 0)),
    CONSTRAINT charges_description CHECK ((length((description)::text) <= 1000)),
    CONSTRAINT charges_free_uses_non_negative CHECK ((free_uses_after >= 0)),
    CONSTRAINT charges_ledger_version_positive CHECK ((ledger_version > 0)),
    CONSTRAINT charges_one_writer CHECK ((num_nonnulls(api_key_id, admin_user_id, database_role) = 1)),
    CONSTRAINT charges_paid_with CHECK ((paid_with = ANY (ARRAY['free'::text, 'paid'::text]))),
    CONSTRAINT ck_charge_amount_positive CHECK ((amount_minor > 0))
);

CREATE FUNCTION billing_data.charge_digest(p_charge billing_data.charges) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.field_hash(p_name text, p_value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.fingerprint(p_parts bigint) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.profile_hash(p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean, p_marketing_opt_in_source text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.charge_fingerprint(p_item billing.charge_item) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.leaf_part(p_name bytea, p_value bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.leaf_text(p_name bytea, p_value text) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.charge_leaf(p_charge billing_data.charges, p_personal_digest bytea) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.charge_outcome(p_item integer, p_outcome text, p_asked billing.charge_item, p_used billing_data.charges, p_balance bigint, p_account_currency text, p_cap jsonb) RETURNS billing.charge_outcome
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.charge_personal_digest(p_charge billing_data.charges, p_salt bytea) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.charge_round(p_items billing.charge_item[], p_left boolean[], p_locked uuid[], p_role text, p_wait boolean, p_now timestamp with time zone, p_refusals jsonb[]) RETURNS billing.charge_outcome[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.charge_verdict(p_status text, p_account_currency text, p_currency text, p_free_uses bigint, p_paid_credits bigint, p_amount_minor bigint, p_cap text DEFAULT NULL::text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.charges_for_caps(p_items billing.charge_item[]) RETURNS billing_data.cap_request[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.charges_of_arrays(p_oauth_providers text[], p_external_ids text[], p_amounts_minor bigint[], p_currencies text[], p_descriptions text[], p_idempotency_keys text[], p_metadata_message_ids text[], p_metadata_agent_ids text[], p_metadata_channel_ids text[], p_metadata_request_ids text[], p_customer_emails text[], p_user_roles text[], p_agent_ids text[], p_marketing_opt_ins boolean[], p_marketing_opt_in_sources text[], p_api_key_ids uuid[]) RETURNS billing.charge_item[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.claim_named_payment(p_external_transaction_id text, p_account_id uuid, p_credit_id uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.claim_payment(p_provider text, p_payment_id text, p_account_id uuid, p_credit_id uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.clock() RETURNS timestamp with time zone
    LANGUAGE sql PARALLEL SAFE;

CREATE FUNCTION billing_data.coming_credit(p_path uuid[], p_idempotency_key text) RETURNS billing_data.credits
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.compute_head(p_day date, p_previous bytea, OUT seals bigint, OUT entries bigint, OUT head bytea) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.count_money(p_account_id uuid, p_first date, p_beyond date) RETURNS TABLE(day date, currency text, sold_minor numeric, returned_minor numeric)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.count_text(p_count bigint, p_one text) RETURNS text
    LANGUAGE sql IMMUTABLE;

CREATE TABLE billing_data.usage_figures (
    slot timestamp with time zone NOT NULL,
    checks bigint DEFAULT 0 NOT NULL,
    checks_denied bigint DEFAULT 0 NOT NULL,
    charges bigint DEFAULT 0 NOT NULL,
    free_charges bigint DEFAULT 0 NOT NULL,
    charge_amount numeric DEFAULT 0 NOT NULL,
    credits_used numeric DEFAULT 0 NOT NULL,
    credits bigint DEFAULT 0 NOT NULL,
    credits_added numeric DEFAULT 0 NOT NULL,
    credits_sold numeric DEFAULT 0 NOT NULL,
    credits_taken_back numeric DEFAULT 0 NOT NULL,
    accounts_created bigint DEFAULT 0 NOT NULL
);

CREATE FUNCTION billing_data.count_usage(p_from timestamp with time zone) RETURNS SETOF billing_data.usage_figures
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.count_usage_of(p_account_id uuid, p_first date, p_beyond date) RETURNS TABLE(day date, charges bigint, free_charges bigint, credits_used numeric, credits_added numeric, credits_sold numeric, credits_taken_back numeric)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.count_users(p_first date, p_beyond date) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.credit_digest(p_credit billing_data.credits) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.is_of_payment(p_payment_provider text, p_request_fingerprint bytea, p_digest bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.credit_leaf(p_credit billing_data.credits, p_personal_digest bytea) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.credit_of_payment(p_account_ids uuid[], p_key text, p_transaction_type text, p_external_transaction_id text) RETURNS billing_data.credits
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.credit_personal_digest(p_credit billing_data.credits, p_salt bytea) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.credit_under_key(p_account_ids uuid[], p_idempotency_key text, p_fingerprint bytea) RETURNS billing_data.credits
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.credits_due(p_account_id uuid, p_now timestamp with time zone) RETURNS numeric
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.credits_over(p_account_id uuid, p_now timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.crossing(p_item integer, p_account_id uuid, p_charge_id uuid, p_paid_with text, p_balance_before bigint, p_balance_after bigint, p_free_uses_after bigint) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.csv_fields(p_line text) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.csv_lines(p_csv text) RETURNS TABLE(line bigint, fields text[])
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.csv_moment(p_text text, p_argument text) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.csv_names(p_csv text) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.cut_ranges(p_run_id bigint, p_entries bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.day_of_use_before(p_account_id uuid, p_day date) RETURNS date
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.delivery_pause(p_attempts integer) RETURNS interval
    LANGUAGE sql PARALLEL SAFE;

CREATE TABLE billing_data.outbox (
    id uuid NOT NULL,
    event_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    kind text NOT NULL,
    account_id uuid,
    data jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone NOT NULL,
    attempted_at timestamp with time zone,
    answer_status integer,
    error text,
    settled_at timestamp with time zone,
    CONSTRAINT outbox_attempts CHECK ((attempts >= 0)),
    CONSTRAINT outbox_data CHECK ((jsonb_typeof(data) = 'object'::text)),
    CONSTRAINT outbox_error CHECK ((length(error) <= 255)),
    CONSTRAINT outbox_kind CHECK (((length(kind) >= 1) AND (length(kind) <= 50))),
    CONSTRAINT outbox_settled CHECK (((state = 'waiting'::text) = (settled_at IS NULL))),
    CONSTRAINT outbox_state CHECK ((state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'failed'::text])))
)
WITH (fillfactor='80');

CREATE FUNCTION billing_data.delivery_payload(p_row billing_data.outbox) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC';

CREATE FUNCTION billing_data.denial_reason(p_status text, p_free_uses bigint, p_paid_credits bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE TABLE billing_data.grant_schedules (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    made_for uuid NOT NULL,
    amount_minor bigint NOT NULL,
    transaction_type text NOT NULL,
    source text,
    priority smallint,
    description character varying(1000) NOT NULL,
    repeat text NOT NULL,
    day smallint,
    rollover boolean NOT NULL,
    lasts_days integer,
    expires_at timestamp with time zone,
    next_at timestamp with time zone,
    ends_at timestamp with time zone,
    grants_left bigint,
    is_paused boolean DEFAULT false NOT NULL,
    reason text,
    idempotency_key character varying(255),
    request_fingerprint bytea NOT NULL,
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT grant_schedules_amount CHECK ((amount_minor > 0)),
    CONSTRAINT grant_schedules_day CHECK (
CASE repeat
    WHEN 'weekly'::text THEN ((day IS NOT NULL) AND (day >= 1) AND (day <= 7))
    WHEN 'monthly'::text THEN ((day IS NOT NULL) AND (day >= 1) AND (day <= 31))
    ELSE (day IS NULL)
END),
    CONSTRAINT grant_schedules_lasts CHECK (((lasts_days >= 1) AND (lasts_days <= 3650))),
    CONSTRAINT grant_schedules_left CHECK ((grants_left >= 0)),
    CONSTRAINT grant_schedules_once CHECK (
CASE repeat
    WHEN 'once'::text THEN (rollover AND (lasts_days IS NULL))
    ELSE (expires_at IS NULL)
END),
    CONSTRAINT grant_schedules_one_writer CHECK ((num_nonnulls(api_key_id, admin_user_id, database_role) = 1)),
    CONSTRAINT grant_schedules_priority CHECK (((priority >= 0) AND (priority <= 100))),
    CONSTRAINT grant_schedules_reason CHECK ((length(reason) <= 500)),
    CONSTRAINT grant_schedules_repeat CHECK ((repeat = ANY (ARRAY['once'::text, 'daily'::text, 'weekly'::text, 'monthly'::text]))),
    CONSTRAINT grant_schedules_source CHECK ((source = ANY (ARRAY['purchase'::text, 'grant'::text, 'promotion'::text, 'refund'::text]))),
    CONSTRAINT grant_schedules_times CHECK ((isfinite(expires_at) AND isfinite(next_at) AND isfinite(ends_at))),
    CONSTRAINT grant_schedules_type CHECK ((transaction_type = ANY (ARRAY['purchase'::text, 'grant'::text, 'refund'::text, 'adjustment'::text])))
)
WITH (fillfactor='80');

CREATE FUNCTION billing_data.due_grants(p_schedule billing_data.grant_schedules, p_now timestamp with time zone) RETURNS TABLE(due_at timestamp with time zone, expires_at timestamp with time zone, is_made boolean, next_at timestamp with time zone, grants_left bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_other_request(p_recorded bytea, p_presented bytea) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.replay_outcome(p_recorded bytea, p_presented bytea) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.early_outcome(p_fault text, p_is_charge boolean, p_account_id uuid, p_used billing_data.charges, p_fingerprint bytea, p_changes boolean, p_locked uuid[], p_wait boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE TABLE billing_data.payment_effects (
    provider text NOT NULL,
    payment_id character varying(255) NOT NULL,
    effect text NOT NULL,
    account_id uuid,
    credit_id uuid,
    created_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    resolution text,
    purchase_before jsonb,
    CONSTRAINT payment_effects_by_a_person CHECK (((effect = 'credited'::text) OR (resolved_at IS NOT NULL))),
    CONSTRAINT payment_effects_credited CHECK ((num_nonnulls(account_id, credit_id) =
CASE effect
    WHEN 'credited'::text THEN 2
    ELSE 0
END)),
    CONSTRAINT payment_effects_effect CHECK ((effect = ANY (ARRAY['credited'::text, 'refunded'::text, 'other'::text]))),
    CONSTRAINT payment_effects_purchase_before_length CHECK ((length((purchase_before)::text) <= 65536)),
    CONSTRAINT payment_effects_resolution_length CHECK (((length(resolution) >= 1) AND (length(resolution) <= 500))),
    CONSTRAINT payment_effects_resolved CHECK (((resolved_at IS NULL) = (resolution IS NULL)))
)
WITH (fillfactor='80');

CREATE FUNCTION billing_data.effect_of_payment(p_provider text, p_payment_id text) RETURNS billing_data.payment_effects
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.lots (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    credit_id uuid NOT NULL,
    origin_id uuid NOT NULL,
    source text NOT NULL,
    amount_minor bigint NOT NULL,
    left_minor bigint NOT NULL,
    has_left boolean GENERATED ALWAYS AS ((left_minor > 0)) STORED NOT NULL,
    priority smallint NOT NULL,
    expires_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT lots_amount CHECK ((amount_minor > 0)),
    CONSTRAINT lots_expires_at CHECK (isfinite(expires_at)),
    CONSTRAINT lots_left CHECK (((left_minor >= 0) AND (left_minor <= amount_minor))),
    CONSTRAINT lots_priority CHECK (((priority >= 0) AND (priority <= 100))),
    CONSTRAINT lots_source CHECK ((source = ANY (ARRAY['purchase'::text, 'grant'::text, 'promotion'::text, 'refund'::text])))
)
WITH (fillfactor='70');

CREATE FUNCTION billing_data.end_lot(p_lot billing_data.lots, p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.end_lots(p_account_ids uuid[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.end_of_day(p_day date) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.end_of_today() RETURNS timestamp with time zone
    LANGUAGE sql STABLE;

CREATE TABLE billing_data.erased_entries (
    account_id uuid NOT NULL,
    ledger_version bigint NOT NULL,
    personal_digest bytea NOT NULL,
    erased_at timestamp with time zone NOT NULL,
    CONSTRAINT erased_entries_digest_length CHECK ((octet_length(personal_digest) = 32))
);

CREATE FUNCTION billing_data.entry_leaves(p_account_id uuid, p_after bigint, p_through bigint, p_salt bytea) RETURNS TABLE(ledger_version bigint, created_at timestamp with time zone, leaf bytea)
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.entry_of_act(p_changes jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.erase_audit_rows(p_account_ids uuid[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_entries(p_account_id uuid) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_left_behind() RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_payments(p_account_ids uuid[]) RETURNS TABLE(table_name text, rows_erased bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_person(p_account_ids uuid[], p_actor billing_data.actor) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_purchases(p_account_ids uuid[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_requests(p_account_ids uuid[]) RETURNS TABLE(table_name text, rows_erased bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_schedules(p_account_ids uuid[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erase_top_ups(p_account_ids uuid[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erased_audit_log(p_row billing_data.admin_audit_logs) RETURNS billing_data.admin_audit_logs
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erased_charge(p_charge billing_data.charges) RETURNS billing_data.charges
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erased_credit(p_credit billing_data.credits) RETURNS billing_data.credits
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erased_json(p_value jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erased_payload(p_payload jsonb, p_payment_id text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.erasure_obstacle(p_account_ids uuid[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.events_of_person(p_account_ids uuid[]) RETURNS TABLE(provider text, event_id text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.expiry_notice() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.figures_border() RETURNS timestamp with time zone
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.figures_through() RETURNS TABLE(slots timestamp with time zone, users timestamp with time zone, is_set_back boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.filled(p_wording text, p_values jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_account_faults(p_account_id uuid, p_after uuid, p_through uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_batch(p_api_key_id uuid, p_first_key_id uuid, p_idempotency_key text) RETURNS TABLE(api_key_id uuid, request_fingerprint bytea, batch_fingerprint bytea, answer jsonb)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_denial(p_account_id uuid, p_at timestamp with time zone) RETURNS TABLE(kind text, denied_at timestamp with time zone, reason text, refusals bigint, api_key_id uuid, database_role text, agent_id text, channel_id text, request_id text, amount_minor bigint, currency text, paid_credits bigint, free_uses bigint, account_currency text, cap jsonb)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_entry_faults(p_account_id uuid, p_after uuid, p_through uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_guard_faults() RETURNS TABLE(problem text, expected text, found text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_head_faults() RETURNS TABLE(problem text, expected text, found text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "DateStyle" TO 'ISO, YMD';

CREATE FUNCTION billing_data.find_hold_faults(p_account_id uuid, p_after uuid, p_through uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_lot_faults(p_account_id uuid, p_after uuid, p_through uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_merge(p_account_id uuid, p_idempotency_key text, p_fingerprint bytea) RETURNS billing_data.account_merges
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_or_create_account(p_oauth_provider text, p_external_id text, p_wa_id text, p_tenant_id text, p_balance_minor bigint, p_currency text, p_plan_name text, p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean, p_marketing_opt_in_source text, p_wait boolean) RETURNS TABLE(account billing_data.accounts, created boolean)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_payment_problems() RETURNS TABLE(problem text, provider text, reference text, payment_id text, account_id uuid, what_is_wrong text, happened_at timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_purchase_faults(p_account_id uuid, p_after uuid, p_through uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_reversal_faults() RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_schedule(p_schedule_id uuid, p_account_id uuid) RETURNS billing_data.grant_schedules
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_schedule_faults(p_account_id uuid, p_after uuid, p_through uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_seal_faults(p_account_id uuid, p_after uuid, p_through uuid) RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    SET "DateStyle" TO 'ISO, YMD';

CREATE TABLE billing_data.admin_users (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    email character varying(255) NOT NULL,
    full_name character varying(255) NOT NULL,
    role character varying(20) DEFAULT 'viewer'::character varying NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_login_at timestamp with time zone,
    google_id character varying(255),
    picture_url character varying(512),
    invited_until timestamp with time zone,
    CONSTRAINT ck_admin_users_role CHECK (((role)::text = ANY ((ARRAY['admin'::character varying, 'viewer'::character varying])::text[])))
);

CREATE FUNCTION billing_data.find_session(p_session_hash bytea) RETURNS TABLE(admin billing_data.admin_users, kind text, expires_at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_transfer(p_from_account_id uuid, p_to_account_id uuid, p_idempotency_key text, p_fingerprint bytea) RETURNS billing_data.credits[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_transfer_faults() RETURNS TABLE(account_id uuid, problem text, expected text, found text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.find_users(p_from timestamp with time zone, p_to timestamp with time zone) RETURNS TABLE(day date, account_id uuid)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.seals (
    account_id uuid NOT NULL,
    day date NOT NULL,
    first_version bigint NOT NULL,
    last_version bigint NOT NULL,
    leaves bytea NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT seals_digest_length CHECK ((octet_length(digest) = 32)),
    CONSTRAINT seals_versions CHECK (((first_version > 0) AND (last_version >= first_version)))
);

CREATE FUNCTION billing_data.first_broken_entry(p_seal billing_data.seals, p_salt bytea) RETURNS TABLE(ledger_version bigint, expected text, found text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.first_id(p_at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.first_key_id(p_api_key_id uuid) RETURNS uuid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.follow_charges(p_items billing.charge_item[]) RETURNS billing.charge_item[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.follow_checks(p_items billing.check_item[]) RETURNS billing.check_item[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.found_deliveries(p_endpoint_id uuid, p_state text, p_kind text, p_account_id uuid, p_from date, p_to date, p_limit bigint, p_offset bigint) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE ROWS 50
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.free_key(p_account_id uuid, p_key text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.free_uses_at(p_account_id uuid, p_version bigint, p_before timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.give_back_held(p_account_ids uuid[], p_reason text, p_actor billing_data.actor) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.give_back_held_lots(p_hold_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.give_back_to_caps(p_back jsonb, p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.give_back_to_lots(p_entry_ids uuid[], p_taken_minor bigint, p_account_id uuid, p_reversal billing_data.credits, p_before bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.give_charge_back_to_caps(p_charge billing_data.charges, p_amount bigint, p_before bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.give_up_credits(p_account_ids uuid[], p_actor billing_data.actor) RETURNS numeric
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.good_key(p_credential uuid, p_permission text) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.has_profile(p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.help_details(p_name text, p_width integer) RETURNS TABLE(section text, name text, description text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off';

CREATE FUNCTION billing_data.help_list(p_search text, p_width integer) RETURNS TABLE(section text, name text, description text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.history_cursor(p_account_id uuid, p_version bigint) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.hold_fingerprint(p_item billing.hold_item) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.hold_lots(p_hold_id uuid, p_account_id uuid, p_amount bigint, p_available bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.hold_outcome(p_item integer, p_outcome text, p_hold billing_data.holds, p_balance bigint, p_held bigint, p_free_uses bigint, p_account_currency text, p_cap jsonb DEFAULT NULL::jsonb) RETURNS billing.hold_outcome
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION billing_data.hold_round(p_items billing.hold_item[], p_left boolean[], p_locked uuid[], p_role text, p_dry_run boolean, p_now timestamp with time zone, p_refusals jsonb[]) RETURNS billing.hold_outcome[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.holds_for_caps(p_items billing.hold_item[]) RETURNS billing_data.cap_request[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.id_at(p_at timestamp with time zone) RETURNS uuid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.new_id() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE;

CREATE FUNCTION billing_data.id_seed() RETURNS bytea
    LANGUAGE sql PARALLEL SAFE;

CREATE FUNCTION billing_data.ids_between(p_from timestamp with time zone, p_to timestamp with time zone, OUT first_id uuid, OUT last_id uuid) RETURNS record
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.ids_from(p_from timestamp with time zone, OUT first_id uuid, OUT last_id uuid) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_cap_of(p_cap billing_data.caps, p_scope text, p_account_id uuid) RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.is_capped(p_account_id uuid, p_api_key_id uuid, p_agent_id text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_capture(p_item billing.capture_item) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.is_charge(p_item billing.charge_item) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.is_check(p_item billing.check_item) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.is_correction(p_credit billing_data.credits) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_erased(p_account_id uuid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_hold(p_item billing.hold_item) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.is_in_range(p_id uuid, p_account_id uuid, p_after uuid, p_through uuid) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE TABLE billing_data.payment_events (
    provider text NOT NULL,
    event_id character varying(255) NOT NULL,
    event_type character varying(255) NOT NULL,
    payment_id character varying(255),
    payload jsonb NOT NULL,
    outcome text NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    account_id uuid,
    livemode boolean,
    deliveries bigint DEFAULT 1 NOT NULL,
    last_received_at timestamp with time zone DEFAULT now() NOT NULL,
    resolved_at timestamp with time zone,
    resolution text,
    CONSTRAINT payment_events_outcome CHECK ((outcome = ANY (ARRAY['resolved'::text, 'credited_by_hand'::text, 'charge_unreadable'::text, 'not_sold_here'::text, 'credited'::text, 'already_credited'::text, 'taken_back'::text, 'restored'::text, 'waiting'::text, 'unchanged'::text, 'acknowledged'::text, 'ignored'::text, 'account_not_found'::text, 'amount_mismatch'::text, 'balance_overflow'::text, 'currency_mismatch'::text, 'metadata_missing'::text, 'mode_mismatch'::text, 'payment_mismatch'::text, 'payment_unknown'::text]))),
    CONSTRAINT payment_events_payload CHECK ((octet_length((payload)::text) <= 4194304)),
    CONSTRAINT payment_events_resolution CHECK ((length(resolution) <= 500)),
    CONSTRAINT payment_events_resolved CHECK (((resolved_at IS NULL) = (resolution IS NULL)))
);

CREATE FUNCTION billing_data.is_known_payment(p_provider text, p_payment_id text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_news_of_return(p_known billing_data.payment_returns, p_told billing_data.payment_returns) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_old_entry(p_id uuid, p_database_role text, p_request_fingerprint bytea) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.is_one_account(p_account_id uuid, p_other_id uuid) RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.is_payment_fault(p_outcome text) RETURNS boolean
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION billing_data.is_resolved_without_credit(p_provider text, p_payment_id text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_sealed(p_value jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_uuid(p_text text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.is_wanted(p_kind text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.key_fault(p_key billing_data.api_keys, p_permission text) RETURNS text
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.item_fault(p_role text, p_credential uuid, p_key billing_data.api_keys, p_permission text) RETURNS text
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.kept_secrets(p_setting text, p_stored jsonb, p_given jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.key_permissions() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.kind_hash(p_source text, p_priority bigint, p_expires_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.kind_told(p_source text, p_priority bigint, p_expires_at timestamp with time zone) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.lead_account_to(p_id uuid, p_account_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.left_to_refund(p_account_id uuid, p_purchase_id uuid, p_provider text, p_price_minor bigint, p_settled_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.list_check_partitions() RETURNS TABLE(schema_name text, partition_name text, starts_at timestamp with time zone, ends_at timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "DateStyle" TO 'ISO, YMD';

CREATE FUNCTION billing_data.list_entries(p_account_id uuid, p_after bigint, p_through bigint) RETURNS TABLE(ledger_version bigint, transaction_id uuid, type text, transaction_type text, paid_with text, amount_minor bigint, credits_change bigint, free_uses_change bigint, balance_after bigint, currency text, description text, created_at timestamp with time zone, external_transaction_id text, message_id text, agent_id text, channel_id text, request_id text, corrects_id uuid, transfer_id uuid, writer_kind text, writer text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.list_free_use_sets(p_account_id uuid) RETURNS TABLE(id uuid, ledger_version bigint, created_at timestamp with time zone, before bigint, after bigint, reason text, admin_user_id uuid, writer text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.list_guards() RETURNS TABLE(table_name text, trigger_name text, definition text, fault text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off';

CREATE FUNCTION billing_data.lock_account(p_account_id uuid) RETURNS billing_data.accounts
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_account_of_identity(p_oauth_provider text, p_external_id text) RETURNS billing_data.accounts
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_accounts(p_account_ids uuid[], p_wait boolean) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_between_writers(p_locks text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_caps(p_capped billing_data.capped_item[], p_now timestamp with time zone, p_wait boolean) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE TABLE billing_data.webhook_endpoints (
    id uuid NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    kinds text[] DEFAULT '{}'::text[] NOT NULL,
    status text DEFAULT 'off'::text NOT NULL,
    secret jsonb NOT NULL,
    old_secret jsonb,
    old_secret_until timestamp with time zone,
    tried_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    problem text,
    CONSTRAINT webhook_endpoints_name CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT webhook_endpoints_old_secret CHECK (((old_secret IS NULL) = (old_secret_until IS NULL))),
    CONSTRAINT webhook_endpoints_problem CHECK (((length(problem) <= 255) AND ((problem IS NULL) OR ((status = 'off'::text) AND (tried_at IS NULL))))),
    CONSTRAINT webhook_endpoints_status CHECK ((status = ANY (ARRAY['off'::text, 'on'::text, 'paused'::text]))),
    CONSTRAINT webhook_endpoints_tried CHECK (((status = 'off'::text) OR (tried_at IS NOT NULL))),
    CONSTRAINT webhook_endpoints_url CHECK (((length(url) <= 2000) AND (url ~ '^https?://[^[:space:]/?#@]+'::text)))
);

CREATE FUNCTION billing_data.lock_endpoint(p_endpoint_id uuid) RETURNS billing_data.webhook_endpoints
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_for_list(p_account_ids uuid[], p_wait boolean) RETURNS uuid[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.lock_hold(p_hold_id uuid, p_actor billing_data.actor) RETURNS billing_data.holds
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_merge(p_account_id uuid) RETURNS billing_data.account_merges
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_payment(p_provider text, p_payment_id text, p_credit_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_schedule(p_schedule_id uuid) RETURNS billing_data.grant_schedules
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.lock_two_accounts(p_from_account_id uuid, p_to_account_id uuid) RETURNS billing_data.accounts[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.maintenance_steps() RETURNS text[]
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION billing_data.make_due_grants(p_account_ids uuid[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.make_grants(p_schedule billing_data.grant_schedules, p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.make_lot(p_credit billing_data.credits, p_source text, p_priority bigint, p_expires_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.manual() RETURNS TABLE(name text, about text, effects text, example text)
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.mask_of(p_secret jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.secrets_of(p_value jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.mask_config(p_kind text, p_config_data jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.max_amount() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.may_write(p_role text, p_key billing_data.api_keys) RETURNS boolean
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION billing_data.merge_path(p_account_id uuid) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.merged_family(p_account_id uuid) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.moment_text(p_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.money_paid(p_provider text, p_payment_id text) RETURNS TABLE(amount_minor bigint, currency text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.money_went_back(p_account_id uuid, p_since timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.month_of(p_at timestamp with time zone, p_ahead integer DEFAULT 0) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.most_attempts() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.move_caps(p_from_id uuid, p_to_id uuid, p_made_for uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.move_default_checks(p_table text, p_from timestamp with time zone, p_to timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.move_lots(p_from_entry_id uuid, p_to_entry_id uuid, p_to_account_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.move_schedules(p_from_id uuid, p_to_id uuid, p_made_for uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.names_of_person(p_account_ids uuid[]) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.names_one(p_text text, p_names text[]) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.needs_top_up(p_status text, p_available bigint, p_threshold bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.newest_day_over() RETURNS date
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.next_due(p_account_id uuid) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.next_expiry(p_account_id uuid, OUT at timestamp with time zone, OUT amount_minor bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan';

CREATE FUNCTION billing_data.next_grant(p_after timestamp with time zone, p_repeat text, p_day bigint) RETURNS timestamp with time zone
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.no_key() RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.note_fraud_warning(p_provider text, p_payment_id text, p_warning_id text, p_is_open boolean) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.note_hold_change(p_hold_id uuid, p_change text, p_amount bigint, p_expires_at timestamp with time zone, p_reason text, p_now timestamp with time zone, p_actor billing_data.actor) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.note_lots(p_account_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan';

CREATE FUNCTION billing_data.note_new_lots(p_account_id uuid, p_expires_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.note_refusals(p_refused jsonb, p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.note_schedules(p_account_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.nth_id(p_seed bytea, p_place integer) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.open_invitation(p_admin_user_id uuid, p_anew boolean) RETURNS timestamp with time zone
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.open_session(p_admin_user_id uuid, p_session_hash bytea, p_how text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.origin_of_entry(p_account_id uuid, p_transfer_id uuid, p_corrects_id uuid, p_changes jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.other_account_of_entry(p_changes jsonb, p_account_id uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.overages_for_caps(p_items billing.capture_item[]) RETURNS billing_data.cap_request[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.owner_of_payment(p_provider text, p_payment_id text, p_account_id uuid, p_purchase_id uuid, p_oauth_provider text, p_external_id text, p_is_claimed boolean, p_is_foreign boolean) RETURNS TABLE(outcome text, account_id uuid, purchase_id uuid)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.owns_hold(p_role text, p_api_key_id uuid, p_hold_key_id uuid) RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.park_deliveries(p_endpoint_id uuid) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.part_to_reverse(p_account_id uuid, p_ledger_version bigint, p_entry_id uuid, p_amount_minor bigint, p_asked bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.path_of_identity(p_oauth_provider text, p_external_id text) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.payment_event_filter(p_payment_id text, p_event_id text, p_from date, p_to date) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.payment_outcome_words(p_outcome text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.period(p_from timestamp with time zone, p_to timestamp with time zone, OUT first timestamp with time zone, OUT beyond timestamp with time zone) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.period_of_days(p_from date, p_to date, OUT first date, OUT beyond date) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.personal_data(p_account_ids uuid[]) RETURNS json
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.place_of_cursor(p_cursor text, p_account_id uuid, p_newest bigint, OUT at timestamp with time zone, OUT rank integer, OUT id uuid, OUT version bigint) RETURNS record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.place_of_row(p_account billing_data.accounts, p_account_ids uuid[], p_row_id uuid, OUT at timestamp with time zone, OUT rank integer, OUT id uuid, OUT version bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.plan_draw(p_account_id uuid, p_amount bigint, p_available bigint, p_own_id uuid) RETURNS TABLE(lot_id uuid, amount_minor bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.plan_merge(p_merged billing_data.accounts, p_account billing_data.accounts) RETURNS billing_data.account_merges
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.pool_payments(p_account_id uuid, p_versions bigint[]) RETURNS TABLE(charge_id uuid, credit_id uuid, amount_minor bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.pool_steps(p_account_id uuid, p_through bigint) RETURNS TABLE(ledger_version bigint, id uuid, own_id uuid, change bigint, spent bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.prepare_checks(p_items billing.check_item[], p_role text, p_rest boolean[], p_wait boolean, OUT created boolean[], OUT busy boolean[]) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.prove_books(p_time interval, OUT is_well boolean, OUT detail text) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.provider_name(p_kind text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.provider_of_payment(p_external_transaction_id text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.prune_cap_usage(p_before timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.purchase_credits(p_uses bigint, p_settled_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.purchase_day(p_is_paid boolean) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.purchase_filter(p_of_account boolean, p_place integer, p_of_payment boolean, p_from date, p_to date, p_is_paid boolean) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.purchase_of_payment(p_provider text, p_payment_id text, p_account_ids uuid[], p_purchase_id uuid) RETURNS billing_data.purchases
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.purchase_order(p_place integer, p_reverse boolean) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.purchase_status(p_purchase billing_data.purchases) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.raise_alert(p_kind text, p_account_id uuid, p_data jsonb DEFAULT '{}'::jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.raise_append_only(p_operation text, p_table text, p_reason text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.raise_balance_alerts(p_account_id uuid, p_free_before bigint, p_paid_before bigint, p_free_after bigint, p_paid_after bigint, p_data jsonb DEFAULT '{}'::jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.raise_charge_alerts(p_crossed jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.raise_error(p_slug text, p_values jsonb DEFAULT '{}'::jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.raise_merged_meanwhile() RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.reach_of_denials(p_account_ids uuid[], p_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.read_csv(p_csv text) RETURNS TABLE(line bigint, fields jsonb)
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.read_grants(p_csv text, p_key_prefix text) RETURNS TABLE(line bigint, named text, asked_id uuid, account_id uuid, amount numeric, key text, expires_at text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.record_resolution(p_provider text, p_payment_id text, p_how text, p_reason text, p_credit_id uuid, p_amount_minor bigint, p_currency text, p_now timestamp with time zone, p_actor billing_data.actor) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.refuse_api_key_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.refuse_audit_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.refuse_charge_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.refuse_credit_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.refuse_erased(p_account_id uuid) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require(p_valid boolean, p_argument text, p_problem text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_account(p_account_id uuid, p_follow boolean DEFAULT true) RETURNS billing_data.accounts
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_account_of(p_asked_id uuid, p_account_id uuid, p_status text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_adjustments(p_account_ids uuid[], p_account_id uuid, p_amounts bigint[], p_amount bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_an_admin() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_charged(p_item billing.charge_item, p_outcome billing.charge_outcome) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_checked(p_item billing.check_item, p_outcome text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_credit_of_payment(p_credit billing_data.credits, p_purchase billing_data.purchases) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_csv(p_csv text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_currency(p_currency text, p_argument text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_currency_length(p_currency text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_durable_commit() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_endpoint(p_name text, p_url text, p_kinds text[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_filled(p_value text, p_argument text, p_field text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_followed(p_items billing.charge_item[], p_followed billing.charge_item[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_hash(p_hash bytea, p_argument text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_held(p_outcome billing.hold_outcome, p_hold_id uuid, p_required bigint, p_currency text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_hold_shape(p_item billing.hold_item) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_identity(p_oauth_provider text, p_external_id text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_kind(p_transaction_type text, p_source text, p_priority bigint, p_expires_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_length(p_value text, p_limit integer, p_argument text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_list(p_shape text, p_count integer, p_argument text, p_field text DEFAULT 'items'::text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_moment(p_at timestamp with time zone, p_argument text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_most(p_most bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_page(p_limit bigint, p_offset bigint, p_most bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_part(p_after bigint, p_through bigint, p_limit bigint, p_newest bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_payment_provider(p_provider text, p_argument text DEFAULT 'p_provider'::text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_price(p_pack_price_minor bigint, p_pack_currency text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_profile(p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in_source text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_purchase_filter(p_status text, p_from date, p_to date, p_days_of text) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_reason(p_reason text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_resolution(p_reference text, p_argument text, p_reason text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_retention(p_before timestamp with time zone, p_rows bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_reversal(p_reason text, p_amount bigint, p_idempotency_key text, p_dry_run boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_reversible_credit(p_credit billing_data.credits) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_room(p_balance bigint, p_change bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_room_in(p_account billing_data.accounts, p_change bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_same_length(p_required integer[], p_optional integer[], p_shapes text[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_schedule(p_amount bigint, p_repeat text, p_day bigint, p_rollover boolean, p_lasts_days bigint, p_starts_at timestamp with time zone, p_ends_at timestamp with time zone, p_grants bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_short(p_value text, p_argument text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_timeline_kinds(p_kinds text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_top_up(p_threshold bigint, p_packs bigint, p_amount_minor bigint, p_currency text, p_monthly_cap_minor bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.require_transfer(p_from billing_data.accounts, p_to billing_data.accounts, p_amount bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.return_money(p_provider text, p_payment_id text, p_account_id uuid, p_purchase_id uuid, p_told billing_data.payment_returns, p_currency text, p_read_at timestamp with time zone, p_database_role text, p_payment_provider text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.reversal_fingerprint(p_entry_id uuid, p_amount bigint, p_reason text) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.role_of_caller(p_api_key_id uuid) RETURNS text
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.run_maintenance_step(p_step text, p_before timestamp with time zone, OUT is_well boolean, OUT detail text) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.saved_card(p_top_up_id uuid, p_account_id uuid, p_payment_id text, p_customer_id text, p_payment_method_id text, p_card text) RETURNS TABLE(provider text, payment_id text, customer_id text, payment_method_id text, card text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.schedule_credit(p_account billing_data.accounts, p_credit_id uuid, p_amount_minor bigint, p_transaction_type text, p_description text, p_idempotency_key text, p_fingerprint bytea, p_source text, p_priority bigint, p_expires_at timestamp with time zone, p_effective_at timestamp with time zone, p_actor billing_data.actor) RETURNS billing_data.credits
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.seal_accounts(p_day date, p_after uuid, p_entries bigint, OUT through uuid, OUT seals bigint, OUT entries bigint) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan';

CREATE FUNCTION billing_data.seal_digest(p_previous bytea, p_account_id uuid, p_day date, p_first_version bigint, p_last_version bigint, p_leaves bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.search_accounts(p_search text, p_limit bigint) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.search_ids(p_id uuid) RETURNS TABLE(kind text, id text, name text, detail text, account_id uuid, at timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.search_newest_accounts(p_search text, p_limit bigint) RETURNS SETOF uuid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.search_patterns(p_search text, p_match text) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.search_texts(p_search text, p_limit bigint) RETURNS TABLE(kind text, id text, name text, detail text, account_id uuid, at timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.settle_caps_of_holds(p_hold_ids uuid[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.settle_hold(p_hold billing_data.holds, p_reason text, p_actor billing_data.actor) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.settle_lots(p_outcomes billing.hold_outcome[], p_captures jsonb) RETURNS billing.hold_outcome[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.settle_once(p_idempotency_key text, p_request_fingerprint bytea, p_items billing.charge_item[], p_captures billing.capture_item[], p_batch_fingerprint bytea, p_wait boolean, OUT answer jsonb, OUT replayed boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.settle_payment(p_provider text, p_payment_id text, p_amount_minor bigint, p_currency text, p_account_id uuid, p_purchase_id uuid, p_database_role text, p_payment_provider text) RETURNS TABLE(outcome text, account_id uuid, purchase_id uuid, credits_added bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.settle_with_credit(p_provider text, p_payment_id text, p_credit_id uuid, p_amount_minor bigint, p_currency text, p_actor billing_data.actor) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.shown_endpoint(p_endpoint billing_data.webhook_endpoints) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.signing_secrets(p_endpoint billing_data.webhook_endpoints) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.spread_returns(p_purchase billing_data.purchases, p_changed_return_id text, p_short bigint, p_now timestamp with time zone) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.standing(p_account billing_data.accounts, OUT held bigint, OUT held_free_uses bigint, OUT paid_credits bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.statement_rows(p_account_id uuid, p_after bigint, p_through bigint, p_from timestamp with time zone, p_to timestamp with time zone) RETURNS TABLE(kind text, ledger_version bigint, place integer, at timestamp with time zone, transaction_id uuid, type text, transaction_type text, paid_with text, amount_minor bigint, credits_change bigint, free_uses_change bigint, balance_after bigint, currency text, reason text, corrects_id uuid, transfer_id uuid, writer_kind text, writer text, external_transaction_id text, message_id text, agent_id text, channel_id text, request_id text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.status_change(p_account_id uuid, p_status text, OUT at timestamp with time zone, OUT who text, OUT reason text) RETURNS record
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.store_api_key(p_name text, p_key_prefix text, p_key_hash text, p_environment text, p_permissions text[], p_description text, p_expires_in_days integer, p_reason text, p_key_digest bytea, p_actor billing_data.actor) RETURNS billing_data.api_keys
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.switch_off_gone(p_endpoint_id uuid, p_claimed_at timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.take_lock(p_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.take_lots(p_account_id uuid, p_entry_id uuid, p_amount bigint, p_available bigint, p_own_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off';

CREATE FUNCTION billing_data.take_lots_for_charges(p_outcomes billing.charge_outcome[], p_account_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.take_lots_for_holds(p_outcomes billing.hold_outcome[], p_account_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.tell_hold(p_hold_id uuid, p_outcome text) RETURNS billing.hold_outcome
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.tell_of_top_up(p_top_up_id uuid, p_payment_id text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.time_of_id(p_id uuid) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.timeline_cursor(p_account_id uuid, p_at timestamp with time zone, p_rank integer, p_id uuid, p_version bigint) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.timeline_kinds() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.timeline_places(p_account_ids uuid[], p_kinds text[], p_from timestamp with time zone, p_after bigint, p_at timestamp with time zone, p_rank integer, p_id uuid, p_version bigint, p_limit bigint) RETURNS TABLE(source text, rank integer, at timestamp with time zone, id uuid, version bigint, what text, reason text, api_key_id uuid, admin_user_id uuid, database_role text, amount_minor bigint, currency text, paid_credits bigint, free_uses bigint, times bigint, payment_id text, agent_id text, channel_id text, request_id text, thing text, changes jsonb)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.timeline_span(p_account billing_data.accounts, p_account_ids uuid[], p_kinds text[], p_from date, p_to date, p_cursor text, p_row_id uuid, OUT at timestamp with time zone, OUT rank integer, OUT id uuid, OUT version bigint, OUT begins_at timestamp with time zone, OUT after bigint, OUT is_cut boolean) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.told_returns(p_ids text[], p_kinds text[], p_amounts_minor bigint[], p_withdrawn boolean[], p_away_minor bigint[], p_states text[], p_transactions bigint[], p_occurred_at timestamp with time zone) RETURNS SETOF billing_data.payment_returns
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.top_up_lease() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.top_up_pause(p_failures bigint) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.top_up_problem_words(p_problem text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.top_up_spent(p_account_id uuid, p_currency text, p_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.topics() RETURNS TABLE(place bigint, task text, name text, words text)
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.undecided(p_count integer, p_decided integer[], p_most integer) RETURNS boolean[]
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.undo_problem(p_merge billing_data.account_merges) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.usage_by(p_step interval, p_from timestamp with time zone, p_to timestamp with time zone) RETURNS TABLE(slot timestamp with time zone, checks bigint, checks_denied bigint, charges bigint, free_charges bigint, charge_amount numeric, credits_used numeric, credits bigint, credits_added numeric, credits_sold numeric, credits_taken_back numeric, accounts_created bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.usage_since(p_from timestamp with time zone, p_to timestamp with time zone DEFAULT 'infinity'::timestamp with time zone) RETURNS SETOF billing_data.usage_figures
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.use_caps(p_capped billing_data.capped_item[], p_made integer[], p_refusals jsonb[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.uses_due(p_uses bigint, p_price_minor bigint, p_money numeric) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.usual_priority() RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.usual_source(p_transaction_type text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.utc_text(p_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE;

CREATE FUNCTION billing_data.version_before(p_account_id uuid, p_newest bigint, p_before timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.version_of_cursor(p_cursor text, p_account_id uuid, p_newest bigint) RETURNS bigint
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.walk_pool(p_account_id uuid, p_through bigint) RETURNS TABLE(credit_id uuid, amount_minor bigint, left_minor bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.wants_purchase(p_status text, p_denial_reason text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.weigh_caps(p_items billing_data.cap_request[], p_capped billing_data.capped_item[], p_left boolean[], p_now timestamp with time zone, OUT due boolean[], OUT refusals jsonb[]) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.weigh_capture(p_hold billing_data.holds, p_asked bigint, p_overage text, p_available bigint, p_free_uses bigint, p_room bigint) RETURNS TABLE(outcome text, captured bigint, is_free boolean)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.weigh_captures(p_items billing.capture_item[], p_left boolean[], p_locked uuid[], p_role text, p_now timestamp with time zone, p_is_capped boolean) RETURNS TABLE(item integer, outcome text, asked_minor bigint, overage text, api_key_id uuid, hold billing_data.holds, hold_at tid, account billing_data.accounts, account_at tid, captured bigint, is_free boolean, price bigint, credits bigint, free_uses bigint, uses bigint, credits_kept bigint, free_uses_kept bigint)
    LANGUAGE plpgsql ROWS 1
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.weigh_charges(p_items billing.charge_item[], p_left boolean[], p_locked uuid[], p_role text, p_wait boolean, p_refusals jsonb[]) RETURNS TABLE(item integer, outcome text, asked billing.charge_item, used billing_data.charges, fingerprint bytea, api_key_id uuid, account_id uuid, account_at tid, account_currency text, ledger_version bigint, balance_before bigint, balance_after bigint, free_uses_after bigint, paid_with text)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.weigh_holds(p_items billing.hold_item[], p_left boolean[], p_locked uuid[], p_role text, p_refusals jsonb[]) RETURNS TABLE(item integer, outcome text, asked billing.hold_item, used billing_data.holds, fingerprint bytea, api_key_id uuid, account_id uuid, account_at tid, account_currency text, paid_credits bigint, held_before bigint, free_uses_before bigint)
    LANGUAGE plpgsql ROWS 1
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off';

CREATE FUNCTION billing_data.why_no_balance(p_state text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.window_start(p_period text, p_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.with_next_expiry(p_items billing.check_item[], p_outcomes billing.check_outcome[]) RETURNS billing.check_outcome[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.with_profile(p_account billing_data.accounts, p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean, p_marketing_opt_in_source text, p_now timestamp with time zone) RETURNS billing_data.accounts
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.withdraw_top_ups(p_account_ids uuid[], p_end_reason text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.wrapped(p_text text, p_width integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.write_audit(p_action text, p_resource_type text, p_resource_id text, p_changes jsonb, p_reason text, p_actor billing_data.actor) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION billing_data.writer_kind(p_api_key_id uuid, p_admin_user_id uuid, p_payment_provider text, p_is_old boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION billing_data.writer_name(p_key_name text, p_key_prefix text, p_email text, p_payment_provider text, p_database_role text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE;

CREATE VIEW billing.account_balances AS
 SELECT id AS account_id,
    plan_name,
    status,
    currency,
    free_uses_remaining,
    paid_credits,
    total_uses,
    ledger_version,
    marketing_opt_in,
    created_at
   FROM billing_data.accounts a;

CREATE VIEW billing.currencies AS
 SELECT code,
    name,
    decimals,
    stripe_decimals,
    step,
    minimum_minor,
    minimum_published,
    ((99999999 / step) * step) AS maximum_minor
   FROM (VALUES ...) c(code, name, decimals, stripe_decimals, step, minimum_minor, minimum_published);

CREATE VIEW billing.ledger AS
 SELECT account_id,
    ledger_version,
    type,
    transaction_id,
    amount_minor,
    balance_change,
    balance_after,
    currency,
    paid_with,
    transaction_type,
    created_at,
    free_uses_change,
    corrects_id,
    transfer_id,
        CASE
            WHEN (api_key_id IS NOT NULL) THEN 'api_key'::text
            WHEN (admin_user_id IS NOT NULL) THEN 'staff'::text
            WHEN (payment_provider IS NOT NULL) THEN 'payment_provider'::text
            WHEN ((database_role = 'legacy'::text) AND (request_fingerprint IS NULL) AND ((get_byte(uuid_send(transaction_id), 6) >> 4) <> 7)) THEN 'old_service'::text
            ELSE 'database'::text
        END AS writer_kind,
        CASE
            WHEN ( SELECT pg_has_role('billing_dba'::name, 'MEMBER'::text) AS pg_has_role) THEN COALESCE(((((name)::text || ' ('::text) || (key_prefix)::text) || ')'::text), (email)::text, payment_provider, database_role)
            ELSE NULL::text
        END AS writer,
        CASE
            WHEN ( SELECT pg_has_role('billing_dba'::name, 'MEMBER'::text) AS pg_has_role) THEN (description)::text
            ELSE NULL::text
        END AS reason
   FROM ((( SELECT account_id,
            ledger_version,
            'charge'::text AS type,
            id AS transaction_id,
            (- amount_minor) AS amount_minor,
                CASE paid_with
                    WHEN 'paid'::text THEN (- amount_minor)
                    ELSE (0)::bigint
                END AS balance_change,
            balance_after,
            currency,
            paid_with,
            NULL::text AS transaction_type,
            created_at,
            (
                CASE paid_with
                    WHEN 'free'::text THEN '-1'::integer
                    ELSE 0
                END)::bigint AS free_uses_change,
            NULL::uuid AS corrects_id,
            NULL::uuid AS transfer_id,
            description,
            api_key_id,
            admin_user_id,
            NULL::text AS payment_provider,
            database_role,
            request_fingerprint
           FROM billing_data.charges c
          WHERE (ledger_version > 0)
        UNION ALL
         SELECT account_id,
            ledger_version,
            'credit'::text,
            id,
            amount_minor,
            amount_minor,
            balance_after,
            currency,
            NULL::text,
            (transaction_type)::text AS transaction_type,
            created_at,
            COALESCE(free_uses, (0)::bigint) AS "coalesce",
            COALESCE(corrects_charge_id, corrects_credit_id) AS "coalesce",
            transfer_id,
            description,
            api_key_id,
            admin_user_id,
            payment_provider,
            database_role,
            request_fingerprint
           FROM billing_data.credits c
          WHERE (ledger_version > 0)) e
     LEFT JOIN billing_data.api_keys k ON ((id = api_key_id)))
     LEFT JOIN billing_data.admin_users u ON ((id = admin_user_id)));

CREATE VIEW billing.daily_usage AS
 SELECT ((created_at AT TIME ZONE 'UTC'::text))::date AS day,
    count(*) FILTER (WHERE (type = 'charge'::text)) AS charges,
    count(*) FILTER (WHERE (paid_with = 'free'::text)) AS free_charges,
    count(*) FILTER (WHERE (type = 'credit'::text)) AS credits,
    COALESCE(sum((- amount_minor)) FILTER (WHERE (paid_with = 'paid'::text)), (0)::numeric) AS credits_used,
    COALESCE(sum(amount_minor) FILTER (WHERE ((type = 'credit'::text) AND (amount_minor > 0))), (0)::numeric) AS credits_added,
    COALESCE(sum((- amount_minor)) FILTER (WHERE ((type = 'credit'::text) AND (amount_minor < 0))), (0)::numeric) AS credits_taken_back,
    count(DISTINCT account_id) FILTER (WHERE (type = 'charge'::text)) AS unique_accounts
   FROM billing.ledger l
  GROUP BY (((created_at AT TIME ZONE 'UTC'::text))::date);

CREATE VIEW billing.errors AS
 SELECT slug,
    ('PB'::text || http_status) AS sqlstate,
    http_status,
    message,
    hint
   FROM (VALUES ...) e(slug, http_status, message, hint);

CREATE TABLE billing_data.account_notes (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    note text NOT NULL,
    admin_user_id uuid,
    database_role text,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT account_notes_note CHECK (((length(note) >= 1) AND (length(note) <= 2000))),
    CONSTRAINT account_notes_one_writer CHECK ((num_nonnulls(admin_user_id, database_role) = 1))
);

CREATE TABLE billing_data.account_requests (
    account_id uuid NOT NULL,
    idempotency_key character varying(255) NOT NULL,
    request_fingerprint bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE billing_data.active_accounts (
    day date NOT NULL,
    account_id uuid NOT NULL
);

CREATE TABLE billing_data.active_accounts_by_day (
    day date NOT NULL,
    accounts bigint NOT NULL
);

CREATE TABLE billing_data.admin_sessions (
    session_hash bytea NOT NULL,
    admin_user_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    kind text DEFAULT 'browser'::text NOT NULL,
    CONSTRAINT admin_sessions_hash CHECK ((length(session_hash) = 32)),
    CONSTRAINT admin_sessions_kind CHECK ((kind = ANY (ARRAY['browser'::text, 'token'::text])))
);

CREATE TABLE billing_data.announced_lots (
    lot_id uuid NOT NULL,
    announced_at timestamp with time zone NOT NULL
);

CREATE TABLE billing_data.batch_requests (
    api_key_id uuid NOT NULL,
    idempotency_key character varying(255) NOT NULL,
    request_fingerprint bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    first_key_id uuid,
    batch_fingerprint bytea,
    CONSTRAINT batch_requests_batch_fingerprint_length CHECK ((length(batch_fingerprint) <= 64))
);

CREATE TABLE billing_data.cap_usage (
    cap_id uuid NOT NULL,
    window_start timestamp with time zone NOT NULL,
    used_minor bigint DEFAULT 0 NOT NULL,
    reached_at timestamp with time zone,
    CONSTRAINT cap_usage_not_negative CHECK ((used_minor >= 0))
)
WITH (fillfactor='70');

CREATE TABLE billing_data.credit_checks (
    id uuid NOT NULL,
    account_id uuid,
    oauth_provider character varying(255) NOT NULL,
    external_id character varying(255) NOT NULL,
    wa_id character varying(255),
    tenant_id character varying(255),
    has_credit boolean NOT NULL,
    credits_remaining bigint,
    free_uses_remaining bigint,
    plan_name character varying(100),
    denial_reason character varying,
    context_agent_id character varying(255),
    context_channel_id character varying(255),
    context_request_id character varying(255),
    api_key_id uuid,
    database_role text,
    created_at timestamp with time zone NOT NULL
)
PARTITION BY RANGE (created_at);

CREATE TABLE billing_data.credit_checks_default (
    id uuid NOT NULL,
    account_id uuid,
    oauth_provider character varying(255) NOT NULL,
    external_id character varying(255) NOT NULL,
    wa_id character varying(255),
    tenant_id character varying(255),
    has_credit boolean NOT NULL,
    credits_remaining bigint,
    free_uses_remaining bigint,
    plan_name character varying(100),
    denial_reason character varying,
    context_agent_id character varying(255),
    context_channel_id character varying(255),
    context_request_id character varying(255),
    api_key_id uuid,
    database_role text,
    created_at timestamp with time zone NOT NULL
);

CREATE TABLE billing_data.erased_accounts (
    account_id uuid NOT NULL,
    erased_at timestamp with time zone NOT NULL
);

CREATE TABLE billing_data.erased_audit_logs (
    id uuid NOT NULL,
    erased_at timestamp with time zone NOT NULL
);

CREATE TABLE billing_data.hold_changes (
    id uuid NOT NULL,
    hold_id uuid NOT NULL,
    change text NOT NULL,
    amount_minor bigint,
    expires_at timestamp with time zone,
    reason text,
    created_at timestamp with time zone NOT NULL,
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    CONSTRAINT hold_changes_change CHECK ((change = ANY (ARRAY['extended'::text, 'captured'::text, 'released'::text, 'expired'::text]))),
    CONSTRAINT hold_changes_one_writer CHECK ((num_nonnulls(api_key_id, admin_user_id, database_role) =
CASE change
    WHEN 'expired'::text THEN 0
    ELSE 1
END)),
    CONSTRAINT hold_changes_reason CHECK ((length(reason) <= 500))
);

CREATE TABLE billing_data.hold_lots (
    hold_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    CONSTRAINT hold_lots_amount CHECK ((amount_minor > 0))
);

CREATE TABLE billing_data.ledger_openings (
    account_id uuid NOT NULL,
    ledger_version bigint NOT NULL,
    paid_credits bigint NOT NULL,
    total_uses bigint NOT NULL,
    free_uses bigint NOT NULL,
    reason text,
    CONSTRAINT ledger_openings_ledger_version_non_negative CHECK ((ledger_version >= 0)),
    CONSTRAINT ledger_openings_of_nothing CHECK (((ledger_version > 0) OR ((paid_credits = 0) AND (total_uses = 0)) OR ((reason = 'no_entries'::text) IS TRUE))),
    CONSTRAINT ledger_openings_reason CHECK ((reason = ANY (ARRAY['agrees'::text, 'no_chain'::text, 'no_entries'::text, 'other_balance'::text])))
);

CREATE TABLE billing_data.locks (
    name text NOT NULL
);

CREATE TABLE billing_data.lot_allocations (
    entry_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    CONSTRAINT lot_allocations_amount CHECK ((amount_minor <> 0))
);

CREATE TABLE billing_data.merge_ranks (
    account_id uuid NOT NULL,
    rank bigint NOT NULL
);

CREATE TABLE billing_data.merged_accounts (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    rank bigint DEFAULT 1 NOT NULL,
    account_rank bigint DEFAULT 2 NOT NULL,
    CONSTRAINT merged_accounts_another CHECK ((id <> account_id)),
    CONSTRAINT merged_accounts_upwards CHECK ((account_rank > rank))
);

CREATE TABLE billing_data.payment_refunds (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    purchase_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    reason text NOT NULL,
    idempotency_key character varying(255),
    admin_user_id uuid,
    database_role text,
    created_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    return_id character varying(255),
    failure text,
    CONSTRAINT payment_refunds_amount_positive CHECK ((amount_minor > 0)),
    CONSTRAINT payment_refunds_failure_length CHECK (((length(failure) >= 1) AND (length(failure) <= 500))),
    CONSTRAINT payment_refunds_one_end CHECK ((num_nonnulls(return_id, failure) = ((finished_at IS NOT NULL))::integer)),
    CONSTRAINT payment_refunds_one_writer CHECK ((num_nonnulls(admin_user_id, database_role) = 1)),
    CONSTRAINT payment_refunds_reason_length CHECK (((length(reason) >= 1) AND (length(reason) <= 500)))
)
WITH (fillfactor='80');

CREATE TABLE billing_data.payment_return_credits (
    account_id uuid NOT NULL,
    provider text NOT NULL,
    return_id character varying(255) NOT NULL,
    credit_id uuid NOT NULL
);

CREATE TABLE billing_data.payment_warnings (
    provider text NOT NULL,
    warning_id character varying(255) NOT NULL,
    kind text NOT NULL,
    payment_id character varying(255) NOT NULL,
    account_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    resolution text,
    CONSTRAINT payment_warnings_kind CHECK ((kind = ANY (ARRAY['fraud_warning'::text, 'credited_twice'::text, 'paid_after_erasure'::text]))),
    CONSTRAINT payment_warnings_resolution_length CHECK (((length(resolution) >= 1) AND (length(resolution) <= 500))),
    CONSTRAINT payment_warnings_resolved CHECK (((resolved_at IS NULL) = (resolution IS NULL)))
)
WITH (fillfactor='80');

CREATE TABLE billing_data.refused_charges (
    account_id uuid NOT NULL,
    minute timestamp with time zone NOT NULL,
    reason text NOT NULL,
    api_key_id uuid,
    database_role text,
    refusals bigint NOT NULL,
    first_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL,
    amount_minor bigint NOT NULL,
    currency character varying(3) NOT NULL,
    paid_credits bigint NOT NULL,
    free_uses_remaining bigint NOT NULL,
    account_currency character varying(3) NOT NULL,
    agent_id character varying(255),
    channel_id character varying(255),
    request_id character varying(255),
    cap jsonb,
    CONSTRAINT refused_charges_cap CHECK (((cap IS NOT NULL) = (reason = ANY (ARRAY['account_cap_reached'::text, 'cap_reached'::text])))),
    CONSTRAINT refused_charges_in_order CHECK ((first_at <= last_at)),
    CONSTRAINT refused_charges_minute CHECK (((first_at >= minute) AND (last_at < (minute + '00:01:00'::interval)))),
    CONSTRAINT refused_charges_positive CHECK (((refusals > 0) AND (amount_minor > 0))),
    CONSTRAINT refused_charges_reason CHECK ((reason = ANY (ARRAY['account_cap_reached'::text, 'account_closed'::text, 'account_suspended'::text, 'cap_reached'::text, 'charge_currency_mismatch'::text, 'insufficient_credits'::text]))),
    CONSTRAINT refused_charges_writer CHECK ((num_nonnulls(api_key_id, database_role) = 1))
)
WITH (fillfactor='80');

CREATE TABLE billing_data.reversed_entries (
    entry_id uuid NOT NULL,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    reversed_minor bigint NOT NULL,
    CONSTRAINT reversed_entries_at_most_all CHECK (((reversed_minor > 0) AND (reversed_minor <= amount_minor)))
);

CREATE TABLE billing_data.scheduled_grants (
    schedule_id uuid NOT NULL,
    due_at timestamp with time zone NOT NULL,
    credit_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL
);

CREATE TABLE billing_data.seal_heads (
    day date NOT NULL,
    seals bigint NOT NULL,
    entries bigint NOT NULL,
    head bytea NOT NULL,
    closed_at timestamp with time zone NOT NULL,
    CONSTRAINT seal_heads_head_length CHECK ((octet_length(head) = 32))
);

CREATE TABLE billing_data.seal_salts (
    account_id uuid NOT NULL,
    salt bytea DEFAULT (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) NOT NULL,
    CONSTRAINT seal_salts_length CHECK ((octet_length(salt) = 32))
);

CREATE TABLE billing_data.seal_state (
    id boolean DEFAULT true NOT NULL,
    day date,
    after uuid,
    next_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT seal_state_one_row CHECK (id)
);

CREATE TABLE billing_data.sign_in_tickets (
    ticket_hash bytea NOT NULL,
    admin_user_id uuid,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT sign_in_tickets_hash CHECK ((length(ticket_hash) = 32))
);

CREATE TABLE billing_data.top_up_attempts (
    account_id uuid NOT NULL,
    purchase_id uuid NOT NULL,
    top_up_id uuid NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    problem text,
    tries bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    leased_until timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT top_up_attempts_ended CHECK (((state = 'open'::text) = (ended_at IS NULL))),
    CONSTRAINT top_up_attempts_failed CHECK (((state <> 'failed'::text) OR (problem IS NOT NULL))),
    CONSTRAINT top_up_attempts_problem CHECK ((problem ~ '^[a-z][a-z0-9_]{0,99}$'::text)),
    CONSTRAINT top_up_attempts_state CHECK ((state = ANY (ARRAY['open'::text, 'succeeded'::text, 'failed'::text, 'canceled'::text]))),
    CONSTRAINT top_up_attempts_tries CHECK ((tries >= 0))
)
WITH (fillfactor='80');

CREATE TABLE billing_data.top_ups (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    threshold bigint NOT NULL,
    packs bigint NOT NULL,
    amount_minor bigint NOT NULL,
    currency character varying(3) NOT NULL,
    monthly_cap_minor bigint NOT NULL,
    provider text NOT NULL,
    payment_id character varying(255) NOT NULL,
    customer_id character varying(255),
    payment_method_id character varying(255),
    card character varying(255),
    consent_version character varying(255) NOT NULL,
    consent_text character varying(1000) NOT NULL,
    consented_at timestamp with time zone NOT NULL,
    api_key_id uuid,
    database_role text,
    failures bigint DEFAULT 0 NOT NULL,
    problem text,
    next_attempt_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    end_reason text,
    CONSTRAINT top_ups_amount_positive CHECK ((amount_minor > 0)),
    CONSTRAINT top_ups_cap CHECK ((monthly_cap_minor >= amount_minor)),
    CONSTRAINT top_ups_card CHECK (((ended_at IS NOT NULL) OR (num_nonnulls(customer_id, payment_method_id) = 2))),
    CONSTRAINT top_ups_end_reason CHECK ((end_reason = ANY (ARRAY['erased'::text, 'failures'::text, 'merged'::text, 'price_changed'::text, 'replaced'::text, 'staff'::text, 'withdrawn'::text]))),
    CONSTRAINT top_ups_ended CHECK ((num_nonnulls(ended_at, end_reason) = ANY (ARRAY[0, 2]))),
    CONSTRAINT top_ups_failures CHECK ((((failures >= 0) AND (failures <= 2)) OR ((failures = 3) AND (ended_at IS NOT NULL)))),
    CONSTRAINT top_ups_one_writer CHECK ((num_nonnulls(api_key_id, database_role) = 1)),
    CONSTRAINT top_ups_packs CHECK (((packs >= 1) AND (packs <= 1000))),
    CONSTRAINT top_ups_problem CHECK ((problem ~ '^[a-z][a-z0-9_]{0,99}$'::text)),
    CONSTRAINT top_ups_threshold CHECK ((threshold >= 0))
)
WITH (fillfactor='80');

CREATE TABLE billing_data.usage_figures_state (
    id boolean DEFAULT true NOT NULL,
    complete_through timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    users_through timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT usage_figures_state_one_row CHECK (id)
);

CREATE TABLE billing_data.user_activity (
    account_id uuid NOT NULL,
    last_day date NOT NULL
);

CREATE TABLE billing_data.user_pauses (
    day date NOT NULL,
    previous_day date NOT NULL,
    users bigint NOT NULL,
    CONSTRAINT user_pauses_before CHECK ((previous_day < day))
);

CREATE TABLE billing_data.users_by_day (
    day date NOT NULL,
    users bigint NOT NULL
);

CREATE TABLE billing_data.verification_ranges (
    run_id bigint NOT NULL,
    place bigint NOT NULL,
    after uuid,
    through uuid,
    accounts bigint NOT NULL,
    entries bigint NOT NULL,
    problem_count bigint,
    problems jsonb,
    verified_at timestamp with time zone
);

CREATE TABLE billing_data.verification_runs (
    id bigint NOT NULL,
    started_at timestamp with time zone NOT NULL,
    started_by text NOT NULL
);

ALTER TABLE ONLY billing_data.credit_checks ATTACH PARTITION billing_data.credit_checks_default DEFAULT;

ALTER TABLE ONLY billing_data.account_merges
    ADD CONSTRAINT account_merges_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.account_notes
    ADD CONSTRAINT account_notes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.account_requests
    ADD CONSTRAINT account_requests_pkey PRIMARY KEY (account_id, idempotency_key);

ALTER TABLE ONLY billing_data.accounts
    ADD CONSTRAINT accounts_identity UNIQUE (oauth_provider, external_id);

ALTER TABLE ONLY billing_data.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.active_accounts_by_day
    ADD CONSTRAINT active_accounts_by_day_pkey PRIMARY KEY (day);

ALTER TABLE ONLY billing_data.active_accounts
    ADD CONSTRAINT active_accounts_pkey PRIMARY KEY (day, account_id);

ALTER TABLE ONLY billing_data.admin_audit_logs
    ADD CONSTRAINT admin_audit_logs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.admin_sessions
    ADD CONSTRAINT admin_sessions_pkey PRIMARY KEY (session_hash);

ALTER TABLE ONLY billing_data.admin_users
    ADD CONSTRAINT admin_users_email_key UNIQUE (email);

ALTER TABLE ONLY billing_data.admin_users
    ADD CONSTRAINT admin_users_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.announced_lots
    ADD CONSTRAINT announced_lots_pkey PRIMARY KEY (lot_id);

ALTER TABLE ONLY billing_data.api_keys
    ADD CONSTRAINT api_keys_key_prefix_key UNIQUE (key_prefix);

ALTER TABLE ONLY billing_data.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.batch_requests
    ADD CONSTRAINT batch_requests_pkey PRIMARY KEY (api_key_id, idempotency_key);

ALTER TABLE ONLY billing_data.cap_usage
    ADD CONSTRAINT cap_usage_pkey PRIMARY KEY (cap_id, window_start);

ALTER TABLE ONLY billing_data.caps
    ADD CONSTRAINT caps_once UNIQUE (scope, subject, period, mode);

ALTER TABLE ONLY billing_data.caps
    ADD CONSTRAINT caps_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.charges
    ADD CONSTRAINT charges_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.credits
    ADD CONSTRAINT credits_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.erased_accounts
    ADD CONSTRAINT erased_accounts_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY billing_data.erased_audit_logs
    ADD CONSTRAINT erased_audit_logs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.erased_entries
    ADD CONSTRAINT erased_entries_pkey PRIMARY KEY (account_id, ledger_version);

ALTER TABLE ONLY billing_data.grant_schedules
    ADD CONSTRAINT grant_schedules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.hold_changes
    ADD CONSTRAINT hold_changes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.hold_lots
    ADD CONSTRAINT hold_lots_pkey PRIMARY KEY (hold_id, lot_id);

ALTER TABLE ONLY billing_data.holds
    ADD CONSTRAINT holds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.ledger_openings
    ADD CONSTRAINT ledger_openings_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY billing_data.locks
    ADD CONSTRAINT locks_pkey PRIMARY KEY (name);

ALTER TABLE ONLY billing_data.lot_allocations
    ADD CONSTRAINT lot_allocations_pkey PRIMARY KEY (entry_id, lot_id);

ALTER TABLE ONLY billing_data.lots
    ADD CONSTRAINT lots_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.merge_ranks
    ADD CONSTRAINT merge_ranks_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY billing_data.merge_ranks
    ADD CONSTRAINT merge_ranks_rank UNIQUE (account_id, rank);

ALTER TABLE ONLY billing_data.merged_accounts
    ADD CONSTRAINT merged_accounts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.payment_effects
    ADD CONSTRAINT payment_effects_credit_once UNIQUE (credit_id);

ALTER TABLE ONLY billing_data.payment_effects
    ADD CONSTRAINT payment_effects_pkey PRIMARY KEY (provider, payment_id);

ALTER TABLE ONLY billing_data.payment_events
    ADD CONSTRAINT payment_events_pkey PRIMARY KEY (provider, event_id);

ALTER TABLE ONLY billing_data.payment_providers
    ADD CONSTRAINT payment_providers_pkey PRIMARY KEY (kind);

ALTER TABLE ONLY billing_data.payment_providers
    ADD CONSTRAINT payment_providers_place UNIQUE (place);

ALTER TABLE ONLY billing_data.payment_refunds
    ADD CONSTRAINT payment_refunds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.payment_return_credits
    ADD CONSTRAINT payment_return_credits_once UNIQUE (credit_id);

ALTER TABLE ONLY billing_data.payment_return_credits
    ADD CONSTRAINT payment_return_credits_pkey PRIMARY KEY (account_id, provider, return_id, credit_id);

ALTER TABLE ONLY billing_data.payment_returns
    ADD CONSTRAINT payment_returns_pkey PRIMARY KEY (account_id, provider, return_id);

ALTER TABLE ONLY billing_data.payment_warnings
    ADD CONSTRAINT payment_warnings_pkey PRIMARY KEY (provider, warning_id);

ALTER TABLE ONLY billing_data.provider_configs
    ADD CONSTRAINT provider_configs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.provider_configs
    ADD CONSTRAINT provider_configs_provider_type_key UNIQUE (provider_type);

ALTER TABLE ONLY billing_data.purchases
    ADD CONSTRAINT purchases_credit_once UNIQUE (credit_id);

ALTER TABLE ONLY billing_data.purchases
    ADD CONSTRAINT purchases_pkey PRIMARY KEY (account_id, id);

ALTER TABLE ONLY billing_data.refused_charges
    ADD CONSTRAINT refused_charges_once UNIQUE NULLS NOT DISTINCT (account_id, minute, reason, api_key_id);

ALTER TABLE ONLY billing_data.reversed_entries
    ADD CONSTRAINT reversed_entries_pkey PRIMARY KEY (entry_id);

ALTER TABLE ONLY billing_data.scheduled_grants
    ADD CONSTRAINT scheduled_grants_credit_once UNIQUE (credit_id);

ALTER TABLE ONLY billing_data.scheduled_grants
    ADD CONSTRAINT scheduled_grants_pkey PRIMARY KEY (schedule_id, due_at);

ALTER TABLE ONLY billing_data.seal_heads
    ADD CONSTRAINT seal_heads_pkey PRIMARY KEY (day);

ALTER TABLE ONLY billing_data.seal_salts
    ADD CONSTRAINT seal_salts_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY billing_data.seal_state
    ADD CONSTRAINT seal_state_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.seals
    ADD CONSTRAINT seals_pkey PRIMARY KEY (account_id, last_version);

ALTER TABLE ONLY billing_data.settings
    ADD CONSTRAINT settings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.sign_in_tickets
    ADD CONSTRAINT sign_in_tickets_pkey PRIMARY KEY (ticket_hash);

ALTER TABLE ONLY billing_data.top_up_attempts
    ADD CONSTRAINT top_up_attempts_pkey PRIMARY KEY (account_id, purchase_id);

ALTER TABLE ONLY billing_data.top_ups
    ADD CONSTRAINT top_ups_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.admin_users
    ADD CONSTRAINT uq_admin_users_google_id UNIQUE (google_id);

ALTER TABLE ONLY billing_data.usage_figures
    ADD CONSTRAINT usage_figures_pkey PRIMARY KEY (slot);

ALTER TABLE ONLY billing_data.usage_figures_state
    ADD CONSTRAINT usage_figures_state_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.user_activity
    ADD CONSTRAINT user_activity_pkey PRIMARY KEY (account_id);

ALTER TABLE ONLY billing_data.user_pauses
    ADD CONSTRAINT user_pauses_pkey PRIMARY KEY (day, previous_day);

ALTER TABLE ONLY billing_data.users_by_day
    ADD CONSTRAINT users_by_day_pkey PRIMARY KEY (day);

ALTER TABLE ONLY billing_data.verification_ranges
    ADD CONSTRAINT verification_ranges_pkey PRIMARY KEY (run_id, place);

ALTER TABLE ONLY billing_data.verification_runs
    ADD CONSTRAINT verification_runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY billing_data.webhook_endpoints
    ADD CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (id);

CREATE INDEX account_merges_account_id ON billing_data.account_merges USING btree (account_id);

CREATE UNIQUE INDEX account_merges_idempotency ON billing_data.account_merges USING btree (merged_account_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE UNIQUE INDEX account_merges_in_force ON billing_data.account_merges USING btree (merged_account_id) WHERE (undone_at IS NULL);

CREATE INDEX account_notes_account_id ON billing_data.account_notes USING btree (account_id, created_at);

CREATE INDEX accounts_balance_minor ON billing_data.accounts USING btree (balance_minor) WHERE (balance_minor <> 0);

CREATE INDEX accounts_created_at ON billing_data.accounts USING btree (created_at, id);

CREATE INDEX accounts_customer_email ON billing_data.accounts USING btree (lower((customer_email)::text) text_pattern_ops, id);

CREATE INDEX accounts_external_id ON billing_data.accounts USING btree (lower((external_id)::text) text_pattern_ops);

CREATE INDEX accounts_not_active ON billing_data.accounts USING btree (status, created_at, id) WHERE ((status)::text <> 'active'::text);

CREATE INDEX admin_audit_logs_reason ON billing_data.admin_audit_logs USING gin (to_tsvector('simple'::regconfig, reason));

CREATE INDEX admin_audit_logs_time ON billing_data.admin_audit_logs USING btree (created_at, id);

CREATE INDEX admin_sessions_admin_user_id ON billing_data.admin_sessions USING btree (admin_user_id);

CREATE UNIQUE INDEX api_keys_acting ON billing_data.api_keys USING btree (COALESCE(credential, id));

CREATE UNIQUE INDEX api_keys_rotated_to ON billing_data.api_keys USING btree (rotated_to) WHERE (rotated_to IS NOT NULL);

CREATE UNIQUE INDEX batch_requests_first_key ON billing_data.batch_requests USING btree (first_key_id, idempotency_key) WHERE (first_key_id IS NOT NULL);

CREATE UNIQUE INDEX charges_idempotency ON billing_data.charges USING btree (account_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE UNIQUE INDEX charges_ledger_version ON billing_data.charges USING btree (account_id, ledger_version) WHERE (ledger_version > 0);

CREATE INDEX credit_checks_account ON ONLY billing_data.credit_checks USING btree (account_id, created_at);

CREATE INDEX credit_checks_created_at ON ONLY billing_data.credit_checks USING brin (created_at) WITH (autosummarize='on');

CREATE INDEX credit_checks_default_account_id_created_at_idx ON billing_data.credit_checks_default USING btree (account_id, created_at);

CREATE INDEX credit_checks_default_created_at_idx ON billing_data.credit_checks_default USING brin (created_at) WITH (autosummarize='on');

CREATE INDEX credits_external_transaction_id ON billing_data.credits USING btree (external_transaction_id) WHERE (external_transaction_id IS NOT NULL);

CREATE UNIQUE INDEX credits_idempotency ON billing_data.credits USING btree (account_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE UNIQUE INDEX credits_ledger_version ON billing_data.credits USING btree (account_id, ledger_version) WHERE (ledger_version > 0);

CREATE INDEX erased_accounts_erased_at ON billing_data.erased_accounts USING btree (erased_at);

CREATE INDEX grant_schedules_due ON billing_data.grant_schedules USING btree (next_at) WHERE ((next_at IS NOT NULL) AND (NOT is_paused));

CREATE UNIQUE INDEX grant_schedules_idempotency ON billing_data.grant_schedules USING btree (made_for, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE INDEX grant_schedules_of_account ON billing_data.grant_schedules USING btree (account_id, id);

CREATE INDEX hold_changes_hold_id ON billing_data.hold_changes USING btree (hold_id);

CREATE INDEX holds_by_account ON billing_data.holds USING btree (account_id, id);

CREATE UNIQUE INDEX holds_charge_once ON billing_data.holds USING btree (charge_id) WHERE (charge_id IS NOT NULL);

CREATE UNIQUE INDEX holds_idempotency ON billing_data.holds USING btree (account_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE INDEX holds_open ON billing_data.holds USING btree (account_id, expires_at) WHERE (state = 'open'::text);

CREATE INDEX idx_admin_audit_logs_action ON billing_data.admin_audit_logs USING btree (action);

CREATE INDEX idx_admin_audit_logs_admin_user_id ON billing_data.admin_audit_logs USING btree (admin_user_id);

CREATE INDEX idx_admin_audit_logs_created_at ON billing_data.admin_audit_logs USING brin (created_at);

CREATE INDEX idx_admin_audit_logs_resource_type_resource_id ON billing_data.admin_audit_logs USING btree (resource_type, resource_id);

CREATE INDEX idx_admin_users_email ON billing_data.admin_users USING btree (email);

CREATE INDEX idx_admin_users_google_id ON billing_data.admin_users USING btree (google_id);

CREATE INDEX idx_admin_users_role ON billing_data.admin_users USING btree (role);

CREATE INDEX lot_allocations_lot_id ON billing_data.lot_allocations USING btree (lot_id);

CREATE INDEX lots_all_of_account ON billing_data.lots USING btree (account_id, id);

CREATE INDEX lots_by_credit ON billing_data.lots USING btree (credit_id);

CREATE INDEX lots_of_account ON billing_data.lots USING btree (account_id) WHERE has_left;

CREATE INDEX lots_to_end ON billing_data.lots USING btree (expires_at) WHERE (has_left AND (expires_at IS NOT NULL));

CREATE INDEX merged_accounts_account_id ON billing_data.merged_accounts USING btree (account_id);

CREATE INDEX outbox_by_account ON billing_data.outbox USING btree (account_id);

CREATE INDEX outbox_open ON billing_data.outbox USING btree (endpoint_id, state, due_at) WHERE (state <> 'delivered'::text);

CREATE INDEX payment_events_faults ON billing_data.payment_events USING btree (received_at) WHERE ((resolved_at IS NULL) AND (outcome = ANY (ARRAY['credited_by_hand'::text, 'charge_unreadable'::text, 'not_sold_here'::text, 'account_not_found'::text, 'amount_mismatch'::text, 'balance_overflow'::text, 'currency_mismatch'::text, 'metadata_missing'::text, 'mode_mismatch'::text, 'payment_mismatch'::text, 'payment_unknown'::text])));

CREATE INDEX payment_events_payment_id ON billing_data.payment_events USING btree (provider, payment_id) WHERE (payment_id IS NOT NULL);

CREATE INDEX payment_events_received_at ON billing_data.payment_events USING btree (received_at, event_id);

CREATE UNIQUE INDEX payment_refunds_idempotency ON billing_data.payment_refunds USING btree (account_id, purchase_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE INDEX payment_refunds_of_purchase ON billing_data.payment_refunds USING btree (account_id, purchase_id);

CREATE INDEX payment_returns_created_at ON billing_data.payment_returns USING btree (created_at);

CREATE INDEX payment_returns_purchase ON billing_data.payment_returns USING btree (account_id, purchase_id);

CREATE INDEX payment_returns_shortfalls ON billing_data.payment_returns USING btree (updated_at) WHERE ((status = 'taken'::text) AND (uses_taken < uses_due));

CREATE INDEX payment_warnings_open ON billing_data.payment_warnings USING btree (created_at) WHERE (resolved_at IS NULL);

CREATE INDEX purchases_created_at ON billing_data.purchases USING btree (created_at, id);

CREATE UNIQUE INDEX purchases_idempotency ON billing_data.purchases USING btree (account_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE UNIQUE INDEX purchases_payment_id ON billing_data.purchases USING btree (provider, payment_id) WHERE (payment_id IS NOT NULL);

CREATE INDEX purchases_settled_at ON billing_data.purchases USING btree (settled_at) INCLUDE (currency, price_minor) WHERE (settled_at IS NOT NULL);

CREATE INDEX refused_charges_by_time ON billing_data.refused_charges USING brin (minute) WITH (autosummarize='on');

CREATE INDEX seals_day ON billing_data.seals USING btree (day, account_id, last_version);

CREATE UNIQUE INDEX top_up_attempts_one_open ON billing_data.top_up_attempts USING btree (account_id) WHERE (state = 'open'::text);

CREATE INDEX top_ups_account_id ON billing_data.top_ups USING btree (account_id, consented_at);

CREATE UNIQUE INDEX top_ups_one_in_force ON billing_data.top_ups USING btree (account_id) WHERE (ended_at IS NULL);

CREATE INDEX user_activity_last_day ON billing_data.user_activity USING btree (last_day);

ALTER INDEX billing_data.credit_checks_account ATTACH PARTITION billing_data.credit_checks_default_account_id_created_at_idx;

ALTER INDEX billing_data.credit_checks_created_at ATTACH PARTITION billing_data.credit_checks_default_created_at_idx;

CREATE TRIGGER accounts_fixed BEFORE UPDATE OF free_uses_granted ON billing_data.accounts FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change('what an account was opened with never changes');

ALTER TABLE billing_data.accounts ENABLE ALWAYS TRIGGER accounts_fixed;

CREATE TRIGGER admin_audit_logs_append_only BEFORE DELETE OR UPDATE OF id, admin_user_id, action, resource_type, created_at, database_role, database_login OR TRUNCATE ON billing_data.admin_audit_logs FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.admin_audit_logs ENABLE ALWAYS TRIGGER admin_audit_logs_append_only;

CREATE TRIGGER admin_audit_logs_erased_only BEFORE UPDATE ON billing_data.admin_audit_logs FOR EACH ROW EXECUTE FUNCTION billing_data.refuse_audit_change();

ALTER TABLE billing_data.admin_audit_logs ENABLE ALWAYS TRIGGER admin_audit_logs_erased_only;

CREATE TRIGGER api_keys_fixed BEFORE DELETE OR UPDATE ON billing_data.api_keys FOR EACH ROW EXECUTE FUNCTION billing_data.refuse_api_key_change();

ALTER TABLE billing_data.api_keys ENABLE ALWAYS TRIGGER api_keys_fixed;

CREATE TRIGGER api_keys_not_truncated BEFORE TRUNCATE ON billing_data.api_keys FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_api_key_change();

ALTER TABLE billing_data.api_keys ENABLE ALWAYS TRIGGER api_keys_not_truncated;

CREATE TRIGGER charges_append_only BEFORE DELETE OR UPDATE OF id, account_id, amount_minor, currency, balance_before, balance_after, created_at OR TRUNCATE ON billing_data.charges FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.charges ENABLE ALWAYS TRIGGER charges_append_only;

CREATE TRIGGER charges_erased_only BEFORE UPDATE ON billing_data.charges FOR EACH ROW EXECUTE FUNCTION billing_data.refuse_charge_change();

ALTER TABLE billing_data.charges ENABLE ALWAYS TRIGGER charges_erased_only;

CREATE TRIGGER credits_append_only BEFORE DELETE OR UPDATE OF id, account_id, amount_minor, currency, balance_before, balance_after, created_at OR TRUNCATE ON billing_data.credits FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.credits ENABLE ALWAYS TRIGGER credits_append_only;

CREATE TRIGGER credits_erased_only BEFORE UPDATE ON billing_data.credits FOR EACH ROW EXECUTE FUNCTION billing_data.refuse_credit_change();

ALTER TABLE billing_data.credits ENABLE ALWAYS TRIGGER credits_erased_only;

CREATE TRIGGER erased_accounts_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.erased_accounts FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.erased_accounts ENABLE ALWAYS TRIGGER erased_accounts_append_only;

CREATE TRIGGER erased_audit_logs_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.erased_audit_logs FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.erased_audit_logs ENABLE ALWAYS TRIGGER erased_audit_logs_append_only;

CREATE TRIGGER erased_entries_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.erased_entries FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.erased_entries ENABLE ALWAYS TRIGGER erased_entries_append_only;

CREATE TRIGGER hold_changes_append_only BEFORE DELETE OR UPDATE OF id, hold_id, change, amount_minor, expires_at, created_at OR TRUNCATE ON billing_data.hold_changes FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.hold_changes ENABLE ALWAYS TRIGGER hold_changes_append_only;

CREATE TRIGGER hold_lots_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.hold_lots FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.hold_lots ENABLE ALWAYS TRIGGER hold_lots_append_only;

CREATE TRIGGER holds_fixed BEFORE DELETE OR UPDATE OF id, account_id, amount_minor, free_uses, currency, created_at OR TRUNCATE ON billing_data.holds FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change('what was held never changes');

ALTER TABLE billing_data.holds ENABLE ALWAYS TRIGGER holds_fixed;

CREATE TRIGGER ledger_openings_fixed BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON billing_data.ledger_openings FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change('where books begin never changes');

ALTER TABLE billing_data.ledger_openings ENABLE ALWAYS TRIGGER ledger_openings_fixed;

CREATE TRIGGER lot_allocations_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.lot_allocations FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.lot_allocations ENABLE ALWAYS TRIGGER lot_allocations_append_only;

CREATE TRIGGER lots_fixed BEFORE DELETE OR UPDATE OF id, account_id, credit_id, origin_id, source, amount_minor, priority, expires_at, created_at OR TRUNCATE ON billing_data.lots FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change('only what is left of a lot changes');

ALTER TABLE billing_data.lots ENABLE ALWAYS TRIGGER lots_fixed;

CREATE TRIGGER purchases_fixed BEFORE UPDATE OF account_id, id, provider, uses, price_minor, currency ON billing_data.purchases FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change('what was sold never changes');

ALTER TABLE billing_data.purchases ENABLE ALWAYS TRIGGER purchases_fixed;

CREATE TRIGGER scheduled_grants_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.scheduled_grants FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.scheduled_grants ENABLE ALWAYS TRIGGER scheduled_grants_append_only;

CREATE TRIGGER seal_heads_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.seal_heads FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.seal_heads ENABLE ALWAYS TRIGGER seal_heads_append_only;

CREATE TRIGGER seals_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.seals FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

ALTER TABLE billing_data.seals ENABLE ALWAYS TRIGGER seals_append_only;

CREATE TRIGGER top_ups_fixed BEFORE DELETE OR UPDATE OF id, account_id, threshold, packs, amount_minor, currency, monthly_cap_minor, provider, payment_id, consented_at, api_key_id, database_role OR TRUNCATE ON billing_data.top_ups FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change('what was agreed to never changes');

ALTER TABLE billing_data.top_ups ENABLE ALWAYS TRIGGER top_ups_fixed;

ALTER TABLE ONLY billing_data.account_merges
    ADD CONSTRAINT account_merges_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.account_merges
    ADD CONSTRAINT account_merges_merged_account FOREIGN KEY (merged_account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.account_notes
    ADD CONSTRAINT account_notes_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.account_notes
    ADD CONSTRAINT account_notes_admin_user FOREIGN KEY (admin_user_id) REFERENCES billing_data.admin_users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.account_requests
    ADD CONSTRAINT account_requests_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.admin_sessions
    ADD CONSTRAINT admin_sessions_admin FOREIGN KEY (admin_user_id) REFERENCES billing_data.admin_users(id) ON DELETE CASCADE;

ALTER TABLE ONLY billing_data.announced_lots
    ADD CONSTRAINT announced_lots_lot FOREIGN KEY (lot_id) REFERENCES billing_data.lots(id) ON DELETE CASCADE;

ALTER TABLE ONLY billing_data.batch_requests
    ADD CONSTRAINT batch_requests_api_key FOREIGN KEY (api_key_id) REFERENCES billing_data.api_keys(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.credits
    ADD CONSTRAINT credits_corrected_charge FOREIGN KEY (corrects_charge_id) REFERENCES billing_data.charges(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.credits
    ADD CONSTRAINT credits_corrected_credit FOREIGN KEY (corrects_credit_id) REFERENCES billing_data.credits(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.erased_accounts
    ADD CONSTRAINT erased_accounts_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.erased_entries
    ADD CONSTRAINT erased_entries_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.charges
    ADD CONSTRAINT fk_charges_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.credits
    ADD CONSTRAINT fk_credits_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.grant_schedules
    ADD CONSTRAINT grant_schedules_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.grant_schedules
    ADD CONSTRAINT grant_schedules_made_for FOREIGN KEY (made_for) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.hold_changes
    ADD CONSTRAINT hold_changes_hold FOREIGN KEY (hold_id) REFERENCES billing_data.holds(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.hold_lots
    ADD CONSTRAINT hold_lots_hold FOREIGN KEY (hold_id) REFERENCES billing_data.holds(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.hold_lots
    ADD CONSTRAINT hold_lots_lot FOREIGN KEY (lot_id) REFERENCES billing_data.lots(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.holds
    ADD CONSTRAINT holds_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.holds
    ADD CONSTRAINT holds_charge FOREIGN KEY (charge_id) REFERENCES billing_data.charges(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.ledger_openings
    ADD CONSTRAINT ledger_openings_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.lot_allocations
    ADD CONSTRAINT lot_allocations_lot FOREIGN KEY (lot_id) REFERENCES billing_data.lots(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.lots
    ADD CONSTRAINT lots_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.lots
    ADD CONSTRAINT lots_credit FOREIGN KEY (credit_id) REFERENCES billing_data.credits(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.lots
    ADD CONSTRAINT lots_origin FOREIGN KEY (origin_id) REFERENCES billing_data.credits(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.merged_accounts
    ADD CONSTRAINT merged_accounts_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.merged_accounts
    ADD CONSTRAINT merged_accounts_account_rank FOREIGN KEY (account_id, account_rank) REFERENCES billing_data.merge_ranks(account_id, rank) ON UPDATE CASCADE;

ALTER TABLE ONLY billing_data.merged_accounts
    ADD CONSTRAINT merged_accounts_rank FOREIGN KEY (id, rank) REFERENCES billing_data.merge_ranks(account_id, rank) ON UPDATE CASCADE;

ALTER TABLE ONLY billing_data.outbox
    ADD CONSTRAINT outbox_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_effects
    ADD CONSTRAINT payment_effects_credit FOREIGN KEY (credit_id) REFERENCES billing_data.credits(id) ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED;

ALTER TABLE ONLY billing_data.payment_effects
    ADD CONSTRAINT payment_effects_provider FOREIGN KEY (provider) REFERENCES billing_data.payment_providers(kind) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_events
    ADD CONSTRAINT payment_events_provider FOREIGN KEY (provider) REFERENCES billing_data.payment_providers(kind) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_refunds
    ADD CONSTRAINT payment_refunds_purchase FOREIGN KEY (account_id, purchase_id) REFERENCES billing_data.purchases(account_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_return_credits
    ADD CONSTRAINT payment_return_credits_credit FOREIGN KEY (credit_id) REFERENCES billing_data.credits(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_return_credits
    ADD CONSTRAINT payment_return_credits_return FOREIGN KEY (account_id, provider, return_id) REFERENCES billing_data.payment_returns(account_id, provider, return_id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_returns
    ADD CONSTRAINT payment_returns_provider FOREIGN KEY (provider) REFERENCES billing_data.payment_providers(kind) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_returns
    ADD CONSTRAINT payment_returns_purchase FOREIGN KEY (account_id, purchase_id) REFERENCES billing_data.purchases(account_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.payment_warnings
    ADD CONSTRAINT payment_warnings_provider FOREIGN KEY (provider) REFERENCES billing_data.payment_providers(kind) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.provider_configs
    ADD CONSTRAINT provider_configs_provider_type FOREIGN KEY (provider_type) REFERENCES billing_data.payment_providers(kind) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.purchases
    ADD CONSTRAINT purchases_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.purchases
    ADD CONSTRAINT purchases_credit FOREIGN KEY (credit_id) REFERENCES billing_data.credits(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.purchases
    ADD CONSTRAINT purchases_provider FOREIGN KEY (provider) REFERENCES billing_data.payment_providers(kind) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.refused_charges
    ADD CONSTRAINT refused_charges_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.reversed_entries
    ADD CONSTRAINT reversed_entries_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.scheduled_grants
    ADD CONSTRAINT scheduled_grants_credit FOREIGN KEY (credit_id) REFERENCES billing_data.credits(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.scheduled_grants
    ADD CONSTRAINT scheduled_grants_schedule FOREIGN KEY (schedule_id) REFERENCES billing_data.grant_schedules(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.sign_in_tickets
    ADD CONSTRAINT sign_in_tickets_admin FOREIGN KEY (admin_user_id) REFERENCES billing_data.admin_users(id) ON DELETE CASCADE;

ALTER TABLE ONLY billing_data.top_up_attempts
    ADD CONSTRAINT top_up_attempts_purchase FOREIGN KEY (account_id, purchase_id) REFERENCES billing_data.purchases(account_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.top_up_attempts
    ADD CONSTRAINT top_up_attempts_top_up FOREIGN KEY (top_up_id) REFERENCES billing_data.top_ups(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.top_ups
    ADD CONSTRAINT top_ups_account FOREIGN KEY (account_id) REFERENCES billing_data.accounts(id) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.top_ups
    ADD CONSTRAINT top_ups_provider FOREIGN KEY (provider) REFERENCES billing_data.payment_providers(kind) ON DELETE RESTRICT;

ALTER TABLE ONLY billing_data.verification_ranges
    ADD CONSTRAINT verification_ranges_run FOREIGN KEY (run_id) REFERENCES billing_data.verification_runs(id) ON DELETE CASCADE;
