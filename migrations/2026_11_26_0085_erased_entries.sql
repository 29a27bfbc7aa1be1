-- What a person's data leaves in the books when it is erased. An entry is sealed with a salted
-- digest of its personal columns. The salt is of one account; when it is deleted, the digest tells
-- nothing about the person any more, and the seal can still be computed from it.
-- depends: 2026_11_26_0076_consent_withdrawn
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.seal_salts (
    account_id uuid NOT NULL,
    salt bytea NOT NULL DEFAULT (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
    -- No reference to the account: it would lock accounts that are being charged.
    CONSTRAINT seal_salts_pkey PRIMARY KEY (account_id),
    CONSTRAINT seal_salts_length CHECK (octet_length(salt) = 32)
);
ALTER TABLE billing_data.seal_salts OWNER TO billing_owner;

CREATE TABLE billing_data.erased_entries (
    account_id uuid NOT NULL,
    ledger_version bigint NOT NULL,
    personal_digest bytea NOT NULL,
    erased_at timestamptz NOT NULL,
    CONSTRAINT erased_entries_pkey PRIMARY KEY (account_id, ledger_version),
    CONSTRAINT erased_entries_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT erased_entries_digest_length CHECK (octet_length(personal_digest) = 32)
);
ALTER TABLE billing_data.erased_entries OWNER TO billing_owner;
