-- Refused where accounts are merged or were: the release before could not read such books.
SET LOCAL lock_timeout = '1s';

DO $$
BEGIN
    IF EXISTS (SELECT FROM billing_data.account_merges) THEN
        RAISE EXCEPTION USING
            MESSAGE = 'accounts were merged in this database, so it cannot go back to a release'
                ' that knows nothing of that',
            HINT = 'The way back is the backup: see docs/backups.md.';
    END IF;
END
$$;
-- Functions that take rows of these tables go before them.
DROP SCHEMA IF EXISTS billing CASCADE;
DROP FUNCTION IF EXISTS
    billing_data.plan_merge, billing_data.carry_out_merge, billing_data.find_merge,
    billing_data.undo_problem, billing_data.lock_merge, billing_data.carry_out_undo;
DROP TABLE billing_data.account_merges;
ALTER TABLE billing_data.merged_accounts
    DROP COLUMN rank,
    DROP COLUMN account_rank;
DROP TABLE billing_data.merge_ranks;
ALTER TABLE billing_data.accounts
    DROP CONSTRAINT ck_account_status,
    ADD CONSTRAINT ck_account_status CHECK (
        (status)::text = ANY (
            (ARRAY['active'::varchar, 'suspended'::varchar, 'closed'::varchar])::text[]
        )
    );
