-- Refunds that staff ask a payment provider for: what was asked, why and by whom is written down
-- before the provider is asked, so that asking again after a fault gives the money back once. What
-- became of the money is told by the provider's events, in payment_returns.
-- depends: 2026_11_26_0125_account_notes
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.payment_refunds (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    purchase_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    reason text NOT NULL,
    idempotency_key varchar(255),
    admin_user_id uuid,
    database_role text,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    return_id varchar(255),
    failure text,
    CONSTRAINT payment_refunds_pkey PRIMARY KEY (id),
    CONSTRAINT payment_refunds_purchase FOREIGN KEY (account_id, purchase_id)
        REFERENCES billing_data.purchases (account_id, id) ON DELETE RESTRICT,
    CONSTRAINT payment_refunds_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT payment_refunds_reason_length CHECK (length(reason) BETWEEN 1 AND 500),
    CONSTRAINT payment_refunds_failure_length CHECK (length(failure) BETWEEN 1 AND 500),
    CONSTRAINT payment_refunds_one_writer CHECK (num_nonnulls(admin_user_id, database_role) = 1),
    CONSTRAINT payment_refunds_one_end CHECK (
        num_nonnulls(return_id, failure) = (finished_at IS NOT NULL)::integer
    )
) WITH (fillfactor = 80);
ALTER TABLE billing_data.payment_refunds OWNER TO billing_owner;
CREATE INDEX payment_refunds_of_purchase ON billing_data.payment_refunds (account_id, purchase_id);
CREATE UNIQUE INDEX payment_refunds_idempotency
    ON billing_data.payment_refunds (account_id, purchase_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
