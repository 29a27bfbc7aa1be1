-- Seals of erased entries can no longer be computed afterwards; the entries stay erased.
SET LOCAL lock_timeout = '1s';

-- What guards history until the release before puts its own triggers in place. The definitions make
-- triggers, so a database that was never deployed has none.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['charges', 'credits'] LOOP
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
DROP FUNCTION IF EXISTS billing_data.charge_leaf;
DROP FUNCTION IF EXISTS billing_data.charge_personal_digest;
DROP FUNCTION IF EXISTS billing_data.credit_leaf;
DROP FUNCTION IF EXISTS billing_data.credit_personal_digest;
DROP TABLE billing_data.erased_entries;
DROP TABLE billing_data.seal_salts;
