-- Each ledger row learns its place in the account's history, what paid for it, who wrote it and
-- which request it answered. Nullable here; filled and constrained by the next two steps.
-- depends: 2026_11_22_0010_account_identity
SET LOCAL lock_timeout = '5s';

ALTER TABLE billing_data.charges
    ADD COLUMN ledger_version bigint,
    ADD COLUMN paid_with text,
    ADD COLUMN free_uses_after bigint,
    ADD COLUMN request_fingerprint bytea,
    ADD COLUMN api_key_id uuid,
    ADD COLUMN admin_user_id uuid,
    ADD COLUMN database_role text;

ALTER TABLE billing_data.credits
    ADD COLUMN ledger_version bigint,
    ADD COLUMN request_fingerprint bytea,
    ADD COLUMN api_key_id uuid,
    ADD COLUMN admin_user_id uuid,
    ADD COLUMN database_role text;
