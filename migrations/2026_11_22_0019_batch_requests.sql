-- A list of charges sent with an Idempotency-Key takes effect once as a whole: its first outcomes
-- are kept here and given again.
-- depends: 2026_11_22_0018_payments
SET LOCAL lock_timeout = '5s';

CREATE TABLE billing_data.batch_requests (
    api_key_id uuid NOT NULL,
    idempotency_key varchar(255) NOT NULL,
    request_fingerprint bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT batch_requests_pkey PRIMARY KEY (api_key_id, idempotency_key),
    CONSTRAINT batch_requests_api_key FOREIGN KEY (api_key_id)
        REFERENCES billing_data.api_keys (id) ON DELETE RESTRICT
);
ALTER TABLE billing_data.batch_requests OWNER TO billing_owner;
