-- What the functions promise, the tables now enforce. Both unique indexes start with the account
-- and are partial, though every row they speak of is in them: a query can use one only if it
-- states its predicate, so the look-up of a key never reads an account's whole history, and a
-- history page never the keys, whatever the planner believed when it made the plan (a plan made
-- while the table was empty once cost a factor of 15).
-- depends: 2026_11_22_0012_ledger_backfill
SET LOCAL lock_timeout = '5s';

DROP INDEX billing_data.idx_charges_account_id;
DROP INDEX billing_data.idx_charges_created_at;
DROP INDEX billing_data.idx_charges_idempotency_key;
DROP INDEX billing_data.idx_charges_request_id;

ALTER TABLE billing_data.charges
    DROP CONSTRAINT uq_charge_idempotency,
    ALTER COLUMN id DROP DEFAULT,
    ALTER COLUMN ledger_version SET NOT NULL,
    ALTER COLUMN paid_with SET NOT NULL,
    ADD CONSTRAINT charges_ledger_version_positive CHECK (ledger_version > 0),
    ADD CONSTRAINT charges_paid_with CHECK (paid_with IN ('free', 'paid')),
    ADD CONSTRAINT charges_balance_chain CHECK (
        balance_after = balance_before - CASE paid_with WHEN 'paid' THEN amount_minor ELSE 0 END
    ),
    ADD CONSTRAINT charges_balance_non_negative CHECK (balance_after >= 0),
    ADD CONSTRAINT charges_free_uses_non_negative CHECK (free_uses_after >= 0),
    ADD CONSTRAINT charges_one_writer
        CHECK (num_nonnulls(api_key_id, admin_user_id, database_role) = 1);
CREATE UNIQUE INDEX charges_idempotency ON billing_data.charges (account_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX charges_ledger_version ON billing_data.charges (account_id, ledger_version)
    WHERE ledger_version > 0;

DROP INDEX billing_data.idx_credits_account_id;
DROP INDEX billing_data.idx_credits_created_at;
DROP INDEX billing_data.idx_credits_transaction_type;
DROP INDEX billing_data.idx_credits_external_transaction_id;

ALTER TABLE billing_data.credits
    DROP CONSTRAINT uq_credit_idempotency,
    ALTER COLUMN id DROP DEFAULT,
    ALTER COLUMN ledger_version SET NOT NULL,
    ADD CONSTRAINT credits_ledger_version_positive CHECK (ledger_version > 0),
    ADD CONSTRAINT credits_balance_non_negative CHECK (balance_before >= 0),
    ADD CONSTRAINT credits_one_writer
        CHECK (num_nonnulls(api_key_id, admin_user_id, database_role) = 1);
CREATE UNIQUE INDEX credits_idempotency ON billing_data.credits (account_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX credits_ledger_version ON billing_data.credits (account_id, ledger_version)
    WHERE ledger_version > 0;
CREATE INDEX credits_external_transaction_id ON billing_data.credits (external_transaction_id)
    WHERE external_transaction_id IS NOT NULL;
