-- What the functions promise, the tables now enforce. Keys start with the account, so that one
-- account's rows can live on one shard. The primary key serves history pages (newest first is
-- ledger_version descending); ids stay findable for a support question, and are ordered by time.
-- depends: 2026_11_22_0012_ledger_backfill
SET LOCAL lock_timeout = '5s';

DROP INDEX billing_data.idx_charges_account_id;
DROP INDEX billing_data.idx_charges_created_at;
DROP INDEX billing_data.idx_charges_idempotency_key;
DROP INDEX billing_data.idx_charges_request_id;

ALTER TABLE billing_data.charges
    DROP CONSTRAINT charges_pkey,
    DROP CONSTRAINT uq_charge_idempotency,
    ALTER COLUMN id DROP DEFAULT,
    ALTER COLUMN ledger_version SET NOT NULL,
    ALTER COLUMN paid_with SET NOT NULL,
    ADD CONSTRAINT charges_pkey PRIMARY KEY (account_id, ledger_version),
    ADD CONSTRAINT charges_idempotency UNIQUE (account_id, idempotency_key),
    ADD CONSTRAINT charges_paid_with CHECK (paid_with IN ('free', 'paid')),
    ADD CONSTRAINT charges_balance_chain CHECK (
        balance_after = balance_before - CASE paid_with WHEN 'paid' THEN amount_minor ELSE 0 END
    ),
    ADD CONSTRAINT charges_balance_non_negative CHECK (balance_after >= 0),
    ADD CONSTRAINT charges_free_uses_non_negative CHECK (free_uses_after >= 0),
    ADD CONSTRAINT charges_one_writer
        CHECK (num_nonnulls(api_key_id, admin_user_id, database_role) = 1);
CREATE INDEX charges_id ON billing_data.charges (id);

DROP INDEX billing_data.idx_credits_account_id;
DROP INDEX billing_data.idx_credits_created_at;
DROP INDEX billing_data.idx_credits_transaction_type;
DROP INDEX billing_data.idx_credits_external_transaction_id;

ALTER TABLE billing_data.credits
    DROP CONSTRAINT credits_pkey,
    DROP CONSTRAINT uq_credit_idempotency,
    ALTER COLUMN id DROP DEFAULT,
    ALTER COLUMN ledger_version SET NOT NULL,
    ADD CONSTRAINT credits_pkey PRIMARY KEY (account_id, ledger_version),
    ADD CONSTRAINT credits_idempotency UNIQUE (account_id, idempotency_key),
    ADD CONSTRAINT credits_balance_non_negative CHECK (balance_before >= 0),
    ADD CONSTRAINT credits_one_writer
        CHECK (num_nonnulls(api_key_id, admin_user_id, database_role) = 1);
CREATE INDEX credits_id ON billing_data.credits (id);
CREATE INDEX credits_external_transaction_id ON billing_data.credits (external_transaction_id)
    WHERE external_transaction_id IS NOT NULL;
