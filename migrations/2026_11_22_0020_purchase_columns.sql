-- A purchase learns which request asked for it, which payment pays for it and which credit settled
-- it; its state follows from those, so the column that repeated it goes. A payment belongs to one
-- purchase. Money that goes back (refunds, disputes) has a table of its own, and takes credits back
-- by ledger entries of negative amount; an entry may be written by a payment provider's word.
-- depends: 2026_11_22_0019_batch_requests
SET LOCAL lock_timeout = '5s';

ALTER TABLE billing_data.purchases
    DROP COLUMN status,
    ALTER COLUMN customer_email DROP NOT NULL,
    ADD COLUMN payment_status text,
    ADD COLUMN idempotency_key varchar(255),
    ADD COLUMN request_fingerprint bytea,
    ADD COLUMN credit_id uuid;
DROP INDEX billing_data.purchases_payment_id;
CREATE UNIQUE INDEX purchases_payment_id ON billing_data.purchases (provider, payment_id)
    WHERE payment_id IS NOT NULL;
CREATE UNIQUE INDEX purchases_idempotency ON billing_data.purchases (account_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

ALTER TABLE billing_data.credits
    ADD COLUMN payment_provider text,
    DROP CONSTRAINT ck_credit_amount_positive,
    DROP CONSTRAINT credits_one_writer,
    ADD CONSTRAINT credits_amount CHECK (
        amount_minor > 0
        OR (amount_minor < 0 AND transaction_type IN ('refund', 'adjustment'))
    ),
    ADD CONSTRAINT credits_balance_after_non_negative CHECK (balance_after >= 0),
    ADD CONSTRAINT credits_one_writer CHECK (
        num_nonnulls(api_key_id, admin_user_id, database_role, payment_provider) = 1
    );

ALTER TABLE billing_data.payment_events
    ADD COLUMN account_id uuid,
    ADD COLUMN livemode boolean,
    ADD COLUMN deliveries bigint NOT NULL DEFAULT 1,
    ADD COLUMN last_received_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN resolved_at timestamptz,
    ADD COLUMN resolution text,
    ADD CONSTRAINT payment_events_resolved CHECK ((resolved_at IS NULL) = (resolution IS NULL)),
    ADD CONSTRAINT payment_events_outcome CHECK (outcome IN (
        'credited', 'already_credited', 'taken_back', 'restored', 'waiting', 'unchanged',
        'acknowledged', 'ignored',
        'account_not_found', 'amount_mismatch', 'balance_overflow', 'currency_mismatch',
        'metadata_missing', 'mode_mismatch', 'payment_mismatch', 'payment_unknown'
    ));

CREATE TABLE billing_data.payment_returns (
    account_id uuid NOT NULL,
    provider text NOT NULL,
    return_id varchar(255) NOT NULL,
    purchase_id uuid NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    amount_minor bigint NOT NULL,
    uses_due bigint NOT NULL DEFAULT 0,
    uses_taken bigint NOT NULL DEFAULT 0,
    credit_id uuid,
    restoring_credit_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolution text,
    CONSTRAINT payment_returns_pkey PRIMARY KEY (account_id, provider, return_id),
    CONSTRAINT payment_returns_purchase FOREIGN KEY (account_id, purchase_id)
        REFERENCES billing_data.purchases (account_id, id) ON DELETE RESTRICT,
    CONSTRAINT payment_returns_credit FOREIGN KEY (credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    CONSTRAINT payment_returns_restoring_credit FOREIGN KEY (restoring_credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    CONSTRAINT payment_returns_provider CHECK (provider IN ('stripe', 'square', 'paypal')),
    CONSTRAINT payment_returns_kind CHECK (kind IN ('refund', 'dispute')),
    CONSTRAINT payment_returns_status CHECK (status IN ('waiting', 'taken', 'restored')),
    CONSTRAINT payment_returns_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT payment_returns_uses CHECK (uses_taken BETWEEN 0 AND uses_due),
    CONSTRAINT payment_returns_nothing_due CHECK (status = 'taken' OR uses_due = 0),
    CONSTRAINT payment_returns_restored
        CHECK (status = 'restored' OR restoring_credit_id IS NULL),
    CONSTRAINT payment_returns_resolved CHECK ((resolved_at IS NULL) = (resolution IS NULL))
) WITH (fillfactor = 80);
ALTER TABLE billing_data.payment_returns OWNER TO billing_owner;
CREATE INDEX payment_returns_purchase ON billing_data.payment_returns (account_id, purchase_id);
