-- POST /accounts has no ledger row to remember its answer by: when a client names an
-- idempotency key, the first answer is kept here and given again.
-- depends: 2026_11_22_0016_keys_and_staff
SET LOCAL lock_timeout = '5s';

CREATE TABLE billing_data.account_requests (
    account_id uuid NOT NULL,
    idempotency_key varchar(255) NOT NULL,
    request_fingerprint bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT account_requests_pkey PRIMARY KEY (account_id, idempotency_key),
    CONSTRAINT account_requests_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT
);
ALTER TABLE billing_data.account_requests OWNER TO billing_owner;
