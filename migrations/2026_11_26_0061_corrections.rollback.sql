-- Refused where a ledger row corrects another: the release before could not read such books.
SET LOCAL lock_timeout = '1s';

DO $$
BEGIN
    IF EXISTS (
        SELECT FROM billing_data.credits AS c
        WHERE num_nonnulls(
            c.corrects_charge_id, c.corrects_credit_id, c.transfer_id, c.free_uses
        ) > 0
    ) THEN
        RAISE EXCEPTION USING
            MESSAGE = 'this ledger has corrections, so it cannot go back to a release that knows'
                ' nothing of them',
            HINT = 'The way back is the backup: see docs/backups.md.';
    END IF;
END
$$;
DROP SCHEMA IF EXISTS billing CASCADE;
DROP FUNCTION IF EXISTS billing_data.credit_digest;
DROP TABLE billing_data.reversed_entries;
ALTER TABLE billing_data.credits
    DROP CONSTRAINT credits_amount,
    DROP CONSTRAINT credits_free_uses,
    DROP CONSTRAINT credits_corrects_charge,
    DROP CONSTRAINT credits_corrects_credit,
    DROP CONSTRAINT credits_transfer,
    DROP CONSTRAINT credits_corrected_charge,
    DROP CONSTRAINT credits_corrected_credit,
    DROP COLUMN corrects_charge_id,
    DROP COLUMN corrects_credit_id,
    DROP COLUMN transfer_id,
    DROP COLUMN free_uses,
    ADD CONSTRAINT credits_amount CHECK (
        amount_minor > 0
        OR (amount_minor < 0 AND transaction_type IN ('refund', 'adjustment'))
    );
