-- The ledger and the audit log are history: rows are added, never changed, and that holds for the
-- owner too. A migration that must touch them disables the trigger for itself.
CREATE OR REPLACE FUNCTION billing_data.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PB403',
        CONSTRAINT = 'append_only',
        MESSAGE = format('%s on %I.%I is not allowed: its rows are history', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME),
        HINT = 'Correct a wrong entry by a new one.';
END
$$;
COMMENT ON FUNCTION billing_data.refuse_change IS 'Trigger: refuses UPDATE, DELETE and TRUNCATE.';

CREATE OR REPLACE TRIGGER charges_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_data.charges
    FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();
CREATE OR REPLACE TRIGGER credits_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_data.credits
    FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();
CREATE OR REPLACE TRIGGER admin_audit_logs_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_data.admin_audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change();

-- The web tier remembers which key a secret belongs to for as long as it runs. That memory can
-- never become false because a key's prefix and hash never change and a key is never deleted.
CREATE OR REPLACE FUNCTION billing_data.refuse_api_key_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.id = OLD.id AND NEW.key_hash = OLD.key_hash AND NEW.key_prefix = OLD.key_prefix THEN
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

CREATE OR REPLACE TRIGGER api_keys_not_truncated
    BEFORE TRUNCATE ON billing_data.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_api_key_change();
CREATE OR REPLACE TRIGGER api_keys_fixed
    BEFORE UPDATE OR DELETE ON billing_data.api_keys
    FOR EACH ROW EXECUTE FUNCTION billing_data.refuse_api_key_change();
