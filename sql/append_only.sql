-- The ledger and the audit log are history: rows are added and never changed. This holds for the
-- owner too. A migration that must change them disables the trigger for itself.
CREATE OR REPLACE FUNCTION billing_data.raise_append_only(
    p_operation text, p_table text, p_reason text
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PB403',
        CONSTRAINT = 'append_only',
        MESSAGE = format(
            '%s on billing_data.%I is not allowed: %s', p_operation, p_table,
            coalesce(p_reason, 'its rows are history')
        ),
        HINT = 'Correct a wrong entry by a new one.';
END
$$;
COMMENT ON FUNCTION billing_data.raise_append_only IS 'Refuses a change of history. Helper.';

CREATE OR REPLACE FUNCTION billing_data.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.raise_append_only(TG_OP, TG_TABLE_NAME, TG_ARGV[0]);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION billing_data.refuse_change IS
    'Trigger: refuses the change it fires for; its argument is the reason given.';

-- An entry of the ledger changes in one case: the person is erased. Then its personal columns get
-- their erased form, after billing_data.erased_entries got what the seals need of them.
CREATE OR REPLACE FUNCTION billing_data.refuse_charge_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW IS NOT DISTINCT FROM billing_data.erased_charge(OLD) AND EXISTS (
        SELECT FROM billing_data.erased_entries AS e
        WHERE e.account_id = OLD.account_id AND e.ledger_version = OLD.ledger_version
    ) THEN
        RETURN NEW;
    END IF;
    PERFORM billing_data.raise_append_only(TG_OP, TG_TABLE_NAME, NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION billing_data.refuse_charge_change IS
    'Trigger: refuses every change of a charge but the erasing of the person.';

CREATE OR REPLACE FUNCTION billing_data.refuse_credit_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW IS NOT DISTINCT FROM billing_data.erased_credit(OLD) AND EXISTS (
        SELECT FROM billing_data.erased_entries AS e
        WHERE e.account_id = OLD.account_id AND e.ledger_version = OLD.ledger_version
    ) THEN
        RETURN NEW;
    END IF;
    PERFORM billing_data.raise_append_only(TG_OP, TG_TABLE_NAME, NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION billing_data.refuse_credit_change IS
    'Trigger: refuses every change of a credit but the erasing of the person.';

-- A row of the audit log changes in the same case: a person is erased whom it names. Then it gets
-- its erased form, after billing_data.erased_audit_logs got its id.
CREATE OR REPLACE FUNCTION billing_data.refuse_audit_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW IS NOT DISTINCT FROM billing_data.erased_audit_log(OLD) AND EXISTS (
        SELECT FROM billing_data.erased_audit_logs AS e WHERE e.id = OLD.id
    ) THEN
        RETURN NEW;
    END IF;
    PERFORM billing_data.raise_append_only(TG_OP, TG_TABLE_NAME, NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION billing_data.refuse_audit_change IS
    'Trigger: refuses every change of an audit row but the erasing of a person.';

-- A web process remembers which key a secret belongs to for as long as it runs. That memory can
-- never become false, because a key's prefix and hash never change and a key is never deleted.
CREATE OR REPLACE FUNCTION billing_data.refuse_api_key_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        -- The credential is compared by name, because the column does not exist after a rollback.
        IF NEW.id = OLD.id AND NEW.key_hash = OLD.key_hash AND NEW.key_prefix = OLD.key_prefix
            AND to_jsonb(NEW) -> 'credential' IS NOT DISTINCT FROM to_jsonb(OLD) -> 'credential'
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'PB403',
        CONSTRAINT = 'api_key_fixed',
        MESSAGE = 'An API key''s id, prefix and hash never change, and a key is never deleted',
        HINT = 'Revoke the key and create another: SELECT * FROM billing.revoke_api_key(...)';
END
$$;
COMMENT ON FUNCTION billing_data.refuse_api_key_change IS
    'Trigger: refuses to change an API key''s id, prefix or hash, or to delete the key.';

-- The triggers that guard history, as pg_get_triggerdef writes them, and what is wrong with each.
-- That is NULL when the trigger exists, is defined as here and is ENABLE ALWAYS. (A session with
-- session_replication_role = replica skips ordinary triggers.)
CREATE OR REPLACE FUNCTION billing_data.list_guards()
RETURNS TABLE (table_name text, trigger_name text, definition text, fault text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
    WITH guards AS (
        SELECT
            g.table_name, g.trigger_name,
            format(
                'CREATE TRIGGER %I BEFORE %s ON billing_data.%I FOR EACH %s'
                ' EXECUTE FUNCTION billing_data.%s',
                g.trigger_name, g.events, g.table_name, g.level, g.call
            ) AS definition
        FROM (
            VALUES
            ('accounts', 'accounts_fixed', 'UPDATE OF free_uses_granted', 'STATEMENT',
                'refuse_change(''what an account was opened with never changes'')'),
            ('admin_audit_logs', 'admin_audit_logs_append_only',
                'DELETE OR UPDATE OF id, admin_user_id, action, resource_type, created_at,'
                ' database_role, database_login OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('admin_audit_logs', 'admin_audit_logs_erased_only', 'UPDATE', 'ROW',
                'refuse_audit_change()'),
            ('api_keys', 'api_keys_fixed', 'DELETE OR UPDATE', 'ROW', 'refuse_api_key_change()'),
            ('api_keys', 'api_keys_not_truncated', 'TRUNCATE', 'STATEMENT',
                'refuse_api_key_change()'),
            ('charges', 'charges_append_only',
                'DELETE OR UPDATE OF id, account_id, amount_minor, currency, balance_before,'
                ' balance_after, created_at OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('charges', 'charges_erased_only', 'UPDATE', 'ROW', 'refuse_charge_change()'),
            ('credits', 'credits_append_only',
                'DELETE OR UPDATE OF id, account_id, amount_minor, currency, balance_before,'
                ' balance_after, created_at OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('credits', 'credits_erased_only', 'UPDATE', 'ROW', 'refuse_credit_change()'),
            ('erased_accounts', 'erased_accounts_append_only', 'DELETE OR UPDATE OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('erased_audit_logs', 'erased_audit_logs_append_only', 'DELETE OR UPDATE OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('erased_entries', 'erased_entries_append_only', 'DELETE OR UPDATE OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('hold_changes', 'hold_changes_append_only',
                'DELETE OR UPDATE OF id, hold_id, change, amount_minor, expires_at, created_at'
                ' OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('holds', 'holds_fixed',
                'DELETE OR UPDATE OF id, account_id, amount_minor, free_uses, currency, created_at'
                ' OR TRUNCATE',
                'STATEMENT', 'refuse_change(''what was held never changes'')'),
            ('ledger_openings', 'ledger_openings_fixed', 'INSERT OR DELETE OR UPDATE OR TRUNCATE',
                'STATEMENT', 'refuse_change(''where books begin never changes'')'),
            ('hold_lots', 'hold_lots_append_only', 'DELETE OR UPDATE OR TRUNCATE', 'STATEMENT',
                'refuse_change()'),
            ('lot_allocations', 'lot_allocations_append_only', 'DELETE OR UPDATE OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('lots', 'lots_fixed',
                'DELETE OR UPDATE OF id, account_id, credit_id, origin_id, source, amount_minor,'
                ' priority, expires_at, created_at OR TRUNCATE',
                'STATEMENT', 'refuse_change(''only what is left of a lot changes'')'),
            ('scheduled_grants', 'scheduled_grants_append_only', 'DELETE OR UPDATE OR TRUNCATE',
                'STATEMENT', 'refuse_change()'),
            ('seal_heads', 'seal_heads_append_only', 'DELETE OR UPDATE OR TRUNCATE', 'STATEMENT',
                'refuse_change()'),
            ('seals', 'seals_append_only', 'DELETE OR UPDATE OR TRUNCATE', 'STATEMENT',
                'refuse_change()'),
            ('top_ups', 'top_ups_fixed',
                'DELETE OR UPDATE OF id, account_id, threshold, packs, amount_minor, currency,'
                ' monthly_cap_minor, provider, payment_id, consented_at, api_key_id, database_role'
                ' OR TRUNCATE',
                'STATEMENT', 'refuse_change(''what was agreed to never changes'')'),
            ('purchases', 'purchases_fixed',
                'UPDATE OF account_id, id, provider, uses, price_minor, currency', 'STATEMENT',
                'refuse_change(''what was sold never changes'')')
        ) AS g (table_name, trigger_name, events, level, call)
    )
    SELECT
        g.table_name, g.trigger_name, g.definition,
        CASE
            WHEN t.oid IS NULL THEN 'missing'
            WHEN pg_get_triggerdef(t.oid) <> g.definition THEN pg_get_triggerdef(t.oid)
            WHEN t.tgenabled = 'D' THEN 'disabled'
            WHEN t.tgenabled <> 'A' THEN 'not ENABLE ALWAYS'
        END
    FROM guards AS g
    LEFT JOIN pg_trigger AS t
        ON t.tgrelid = to_regclass('billing_data.' || g.table_name) AND t.tgname = g.trigger_name;
$$;
COMMENT ON FUNCTION billing_data.list_guards IS
    'Lists the triggers that guard history and what is wrong with each. Helper.';

-- A trigger that is right is left alone, so that only the first deploy locks its table.
DO $guards$
DECLARE
    v_guard record;
BEGIN
    FOR v_guard IN
        SELECT g.table_name, g.trigger_name, g.definition, g.fault
        FROM billing_data.list_guards() AS g
        WHERE g.fault IS NOT NULL
    LOOP
        IF v_guard.fault NOT IN ('disabled', 'not ENABLE ALWAYS') THEN
            EXECUTE format(
                'DROP TRIGGER IF EXISTS %I ON billing_data.%I',
                v_guard.trigger_name, v_guard.table_name
            );
            EXECUTE v_guard.definition;
        END IF;
        EXECUTE format(
            'ALTER TABLE billing_data.%I ENABLE ALWAYS TRIGGER %I',
            v_guard.table_name, v_guard.trigger_name
        );
    END LOOP;
END
$guards$;

-- Entries get a digest from the first deploy of a release that makes digests. After an older
-- release ran for a while, they get one again from the next deploy of such a release. Calls that
-- were under way then may take a minute to end.
DO $digests$
BEGIN
    IF to_regproc('billing_data.charge_digest') IS NULL THEN
        UPDATE billing_data.settings AS s
        SET digests_since = clock_timestamp() + interval '1 minute';
    END IF;
END
$digests$;

-- A digest of everything that an entry says, stored with the entry. A later change of any field
-- shows, even of a field that no sum includes. The digest is not secret: somebody who forges an
-- entry with its digest is found by the sums. The hash functions are those of hash partitioning,
-- which do not change between PostgreSQL versions.
CREATE OR REPLACE FUNCTION billing_data.new_charge_digest(
    p_account_id uuid,
    p_ledger_version bigint,
    p_id uuid,
    p_amount_minor bigint,
    p_currency varchar,
    p_balance_before bigint,
    p_balance_after bigint,
    p_free_uses_after bigint,
    p_paid_with text,
    p_description varchar,
    p_idempotency_key varchar,
    p_request_fingerprint bytea,
    p_created_at timestamptz,
    p_api_key_id uuid,
    p_admin_user_id uuid,
    p_database_role text
) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hash_record_extended(
    ROW(
        p_account_id, p_ledger_version, p_id, p_amount_minor, p_currency, p_balance_before,
        p_balance_after, p_free_uses_after, p_paid_with, p_description, p_idempotency_key,
        p_request_fingerprint, p_created_at, p_api_key_id, p_admin_user_id, p_database_role
    ),
    0
);
COMMENT ON FUNCTION billing_data.new_charge_digest IS
    'A digest of what a charge says, before its row exists. Helper.';

CREATE OR REPLACE FUNCTION billing_data.charge_digest(p_charge billing_data.charges)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN billing_data.new_charge_digest(
    (p_charge).account_id, (p_charge).ledger_version, (p_charge).id, (p_charge).amount_minor,
    (p_charge).currency, (p_charge).balance_before, (p_charge).balance_after,
    (p_charge).free_uses_after, (p_charge).paid_with, (p_charge).description,
    (p_charge).idempotency_key, (p_charge).request_fingerprint, (p_charge).created_at,
    (p_charge).api_key_id, (p_charge).admin_user_id, (p_charge).database_role
);
COMMENT ON FUNCTION billing_data.charge_digest IS 'A digest of what a charge says. Helper.';

-- What a credit corrects goes into its digest only where it corrects something. So the digests of
-- all other credits are the same as before that column existed.
CREATE OR REPLACE FUNCTION billing_data.credit_digest(p_credit billing_data.credits)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hash_record_extended(
    ROW(
        (p_credit).account_id, (p_credit).ledger_version, (p_credit).id, (p_credit).amount_minor,
        (p_credit).currency, (p_credit).balance_before, (p_credit).balance_after,
        (p_credit).transaction_type, (p_credit).description, (p_credit).external_transaction_id,
        (p_credit).idempotency_key, (p_credit).request_fingerprint, (p_credit).created_at,
        (p_credit).api_key_id, (p_credit).admin_user_id, (p_credit).database_role,
        (p_credit).payment_provider
    ),
    CASE
        WHEN num_nonnulls(
            (p_credit).corrects_charge_id, (p_credit).corrects_credit_id, (p_credit).transfer_id,
            (p_credit).free_uses
        ) = 0 THEN 0
        ELSE hash_record_extended(
            ROW(
                (p_credit).corrects_charge_id, (p_credit).corrects_credit_id,
                (p_credit).transfer_id, (p_credit).free_uses
            ),
            0
        )
    END
);
COMMENT ON FUNCTION billing_data.credit_digest IS 'A digest of what a credit says. Helper.';
