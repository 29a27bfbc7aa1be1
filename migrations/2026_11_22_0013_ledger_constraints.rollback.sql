SET LOCAL lock_timeout = '5s';

DROP INDEX billing_data.charges_idempotency;
DROP INDEX billing_data.charges_ledger_version;
ALTER TABLE billing_data.charges
    DROP CONSTRAINT charges_ledger_version_positive,
    DROP CONSTRAINT charges_paid_with,
    DROP CONSTRAINT charges_balance_chain,
    DROP CONSTRAINT charges_balance_non_negative,
    DROP CONSTRAINT charges_free_uses_non_negative,
    DROP CONSTRAINT charges_one_writer,
    ALTER COLUMN ledger_version DROP NOT NULL,
    ALTER COLUMN paid_with DROP NOT NULL,
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ADD CONSTRAINT uq_charge_idempotency UNIQUE (account_id, idempotency_key);
CREATE INDEX idx_charges_account_id ON billing_data.charges (account_id);
CREATE INDEX idx_charges_created_at ON billing_data.charges (created_at);
CREATE INDEX idx_charges_idempotency_key ON billing_data.charges (idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX idx_charges_request_id ON billing_data.charges (metadata_request_id)
    WHERE metadata_request_id IS NOT NULL;

DROP INDEX billing_data.credits_idempotency;
DROP INDEX billing_data.credits_ledger_version;
DROP INDEX billing_data.credits_external_transaction_id;
ALTER TABLE billing_data.credits
    DROP CONSTRAINT credits_ledger_version_positive,
    DROP CONSTRAINT credits_balance_non_negative,
    DROP CONSTRAINT credits_one_writer,
    ALTER COLUMN ledger_version DROP NOT NULL,
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ADD CONSTRAINT uq_credit_idempotency UNIQUE (account_id, idempotency_key);
CREATE INDEX idx_credits_account_id ON billing_data.credits (account_id);
CREATE INDEX idx_credits_created_at ON billing_data.credits (created_at);
CREATE INDEX idx_credits_transaction_type ON billing_data.credits (transaction_type);
CREATE INDEX idx_credits_external_transaction_id ON billing_data.credits (external_transaction_id)
    WHERE external_transaction_id IS NOT NULL;
