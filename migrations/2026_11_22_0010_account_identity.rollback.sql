SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;

ALTER TABLE billing_data.accounts
    DROP CONSTRAINT accounts_identity,
    DROP COLUMN ledger_version,
    RESET (fillfactor),
    ADD CONSTRAINT uq_account_identity UNIQUE (oauth_provider, external_id, wa_id, tenant_id);

CREATE INDEX idx_accounts_oauth_external ON billing_data.accounts (oauth_provider, external_id);
CREATE INDEX idx_accounts_wa_id ON billing_data.accounts (wa_id) WHERE wa_id IS NOT NULL;
CREATE INDEX idx_accounts_tenant_id ON billing_data.accounts (tenant_id)
    WHERE tenant_id IS NOT NULL;
CREATE INDEX idx_accounts_status ON billing_data.accounts (status);
CREATE INDEX idx_accounts_updated_at ON billing_data.accounts (updated_at);
