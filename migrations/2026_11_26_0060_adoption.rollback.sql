-- Refused where the database was taken over: the ids of merged accounts would be lost, and the
-- release before cannot read such books.
SET LOCAL lock_timeout = '1s';

DO $$
BEGIN
    IF EXISTS (SELECT FROM billing_data.merged_accounts)
        OR EXISTS (SELECT FROM billing_data.ledger_openings AS o WHERE o.reason IS NOT NULL)
    THEN
        RAISE EXCEPTION USING
            MESSAGE = 'this database was taken over from the old service, so it cannot go back to'
                ' a release that knows nothing of that',
            HINT = 'The way back is the backup: see docs/adopting.md.';
    END IF;
END
$$;
ALTER TABLE billing_data.ledger_openings
    DROP CONSTRAINT ledger_openings_of_nothing,
    DROP COLUMN reason,
    ADD CONSTRAINT ledger_openings_of_nothing
        CHECK (ledger_version > 0 OR (paid_credits = 0 AND total_uses = 0));
DROP TABLE billing_data.merged_accounts;
