-- What was offered at what price is written down before the payment provider is asked, and each
-- of its events is stored once, before it is acted on.
-- depends: 2026_11_22_0017_account_requests
SET LOCAL lock_timeout = '5s';

CREATE TABLE billing_data.purchases (
    account_id uuid NOT NULL,
    id uuid NOT NULL,
    provider text NOT NULL DEFAULT 'stripe',
    payment_id varchar(255),
    uses bigint NOT NULL,
    price_minor bigint NOT NULL,
    currency varchar(3) NOT NULL,
    customer_email varchar(255) NOT NULL,
    status text NOT NULL DEFAULT 'offered',
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    created_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    CONSTRAINT purchases_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT purchases_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT purchases_provider CHECK (provider IN ('stripe', 'square', 'paypal')),
    CONSTRAINT purchases_status CHECK (status IN ('offered', 'pending', 'settled', 'failed')),
    CONSTRAINT purchases_uses_positive CHECK (uses > 0),
    CONSTRAINT purchases_price_positive CHECK (price_minor > 0),
    CONSTRAINT purchases_settled CHECK ((status = 'settled') = (settled_at IS NOT NULL)),
    CONSTRAINT purchases_one_writer
        CHECK (num_nonnulls(api_key_id, admin_user_id, database_role) = 1)
) WITH (fillfactor = 80);
ALTER TABLE billing_data.purchases OWNER TO billing_owner;
CREATE INDEX purchases_payment_id ON billing_data.purchases (provider, payment_id)
    WHERE payment_id IS NOT NULL;

CREATE TABLE billing_data.payment_events (
    provider text NOT NULL,
    event_id varchar(255) NOT NULL,
    event_type varchar(255) NOT NULL,
    payment_id varchar(255),
    payload jsonb NOT NULL,
    outcome text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payment_events_pkey PRIMARY KEY (provider, event_id),
    CONSTRAINT payment_events_provider CHECK (provider IN ('stripe', 'square', 'paypal'))
);
ALTER TABLE billing_data.payment_events OWNER TO billing_owner;
CREATE INDEX payment_events_payment_id ON billing_data.payment_events (provider, payment_id)
    WHERE payment_id IS NOT NULL;
