-- Two accounts can be merged: the id and the identity of one lead to the other from then on. Each
-- account that takes part has a rank, and an account is merged only into one of a higher rank, so
-- that no circle can come about. account_merges keeps what each merge moved and what it needs to be
-- undone. The rows of accounts satisfy the new check; the next step reads them all.
-- depends: 2026_11_26_0062_corrections_validated
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.accounts
    DROP CONSTRAINT ck_account_status,
    ADD CONSTRAINT ck_account_status
        CHECK (status IN ('active', 'suspended', 'closed', 'merged')) NOT VALID;

CREATE TABLE billing_data.merge_ranks (
    account_id uuid NOT NULL,
    rank bigint NOT NULL,
    CONSTRAINT merge_ranks_pkey PRIMARY KEY (account_id),
    CONSTRAINT merge_ranks_rank UNIQUE (account_id, rank)
);
ALTER TABLE billing_data.merge_ranks OWNER TO billing_owner;
COMMENT ON TABLE billing_data.merge_ranks IS
    'The order that keeps merges free of circles: into a higher rank only.';
INSERT INTO billing_data.merge_ranks (account_id, rank)
SELECT m.id, 1 FROM billing_data.merged_accounts AS m
UNION
SELECT m.account_id, 2 FROM billing_data.merged_accounts AS m;

-- The defaults are for accounts that an adoption merges: their ranks are 1 and 2.
ALTER TABLE billing_data.merged_accounts
    ADD COLUMN rank bigint NOT NULL DEFAULT 1,
    ADD COLUMN account_rank bigint NOT NULL DEFAULT 2,
    ADD CONSTRAINT merged_accounts_upwards CHECK (account_rank > rank),
    ADD CONSTRAINT merged_accounts_rank FOREIGN KEY (id, rank)
        REFERENCES billing_data.merge_ranks (account_id, rank) ON UPDATE CASCADE,
    ADD CONSTRAINT merged_accounts_account_rank FOREIGN KEY (account_id, account_rank)
        REFERENCES billing_data.merge_ranks (account_id, rank) ON UPDATE CASCADE;

CREATE TABLE billing_data.account_merges (
    id uuid NOT NULL,
    merged_account_id uuid NOT NULL,
    account_id uuid NOT NULL,
    credits bigint NOT NULL,
    free_uses_taken bigint NOT NULL,
    free_uses_given bigint NOT NULL,
    balance_after bigint NOT NULL,
    free_uses_after bigint NOT NULL,
    consent_before jsonb,
    ledger_version bigint NOT NULL,
    reason text NOT NULL,
    idempotency_key text,
    request_fingerprint bytea NOT NULL,
    admin_user_id uuid,
    database_role text,
    created_at timestamptz NOT NULL,
    undo_id uuid,
    undo_reason text,
    undo_key text,
    undone_at timestamptz,
    CONSTRAINT account_merges_pkey PRIMARY KEY (id),
    CONSTRAINT account_merges_merged_account FOREIGN KEY (merged_account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT account_merges_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT account_merges_another CHECK (merged_account_id <> account_id),
    CONSTRAINT account_merges_moved CHECK (
        credits >= 0 AND free_uses_given >= 0 AND free_uses_taken >= free_uses_given
    ),
    CONSTRAINT account_merges_reason CHECK (length(reason) <= 500 AND length(undo_reason) <= 500),
    CONSTRAINT account_merges_key
        CHECK (length(idempotency_key) <= 255 AND length(undo_key) <= 255),
    CONSTRAINT account_merges_one_writer CHECK (num_nonnulls(admin_user_id, database_role) = 1),
    CONSTRAINT account_merges_undone CHECK (num_nonnulls(undo_id, undo_reason, undone_at) IN (0, 3))
);
ALTER TABLE billing_data.account_merges OWNER TO billing_owner;
COMMENT ON TABLE billing_data.account_merges IS
    'Each merge of two accounts: what it moved, why, and whether it was undone.';
CREATE UNIQUE INDEX account_merges_in_force
    ON billing_data.account_merges (merged_account_id) WHERE undone_at IS NULL;
CREATE UNIQUE INDEX account_merges_idempotency
    ON billing_data.account_merges (merged_account_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX account_merges_account_id ON billing_data.account_merges (account_id);
