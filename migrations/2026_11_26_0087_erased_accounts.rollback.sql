-- What was erased stays erased.
SET LOCAL lock_timeout = '1s';

UPDATE billing_data.payment_warnings AS w
SET kind = 'credited_twice'
WHERE w.kind = 'paid_after_erasure';
ALTER TABLE billing_data.payment_warnings
    DROP CONSTRAINT payment_warnings_kind,
    ADD CONSTRAINT payment_warnings_kind CHECK (kind IN ('fraud_warning', 'credited_twice'));
-- What guards history until the release before puts its own triggers in place. The definitions make
-- triggers, so a database that was never deployed has none.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['admin_audit_logs'] LOOP
        EXECUTE format(
            'DROP TRIGGER IF EXISTS %I ON billing_data.%I', v_table || '_append_only', v_table
        );
        EXECUTE format(
            'DROP TRIGGER IF EXISTS %I ON billing_data.%I', v_table || '_erased_only', v_table
        );
        CONTINUE WHEN to_regproc('billing_data.refuse_change') IS NULL;
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE DELETE OR UPDATE OR TRUNCATE ON billing_data.%I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change()',
            v_table || '_append_only', v_table
        );
        EXECUTE format(
            'ALTER TABLE billing_data.%I ENABLE ALWAYS TRIGGER %I', v_table,
            v_table || '_append_only'
        );
    END LOOP;
END
$$;
DROP TABLE billing_data.erased_audit_logs;
DROP TABLE billing_data.erased_accounts;
