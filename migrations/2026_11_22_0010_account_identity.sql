-- One account per (oauth_provider, external_id): the old constraint included nullable columns and
-- let parallel first checks insert several. What is never looked up by, or changes with every
-- charge, carries no index, and the fillfactor leaves room, so that updates stay HOT.
-- depends: 2026_11_22_0009_roles_and_schema
SET LOCAL lock_timeout = '5s';

ALTER TABLE billing_data.accounts
    DROP CONSTRAINT uq_account_identity,
    ADD CONSTRAINT accounts_identity UNIQUE (oauth_provider, external_id),
    ADD COLUMN ledger_version bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT accounts_ledger_version_non_negative CHECK (ledger_version >= 0),
    SET (fillfactor = 75);

DROP INDEX billing_data.idx_accounts_oauth_external;
DROP INDEX billing_data.idx_accounts_wa_id;
DROP INDEX billing_data.idx_accounts_tenant_id;
DROP INDEX billing_data.idx_accounts_status;
DROP INDEX billing_data.idx_accounts_updated_at;
