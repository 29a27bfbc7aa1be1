-- Top-ups: a consent that a saved card buys credits when they run low, and what was bought by it.
-- A row of top_ups is one consent with what was agreed to; at most one of an account is in force.
-- An attempt is a purchase that nobody made by hand; at most one of an account is open.
-- depends: 2026_11_26_0116_announced_lots
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.top_ups (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    threshold bigint NOT NULL,
    packs bigint NOT NULL,
    amount_minor bigint NOT NULL,
    currency varchar(3) NOT NULL,
    monthly_cap_minor bigint NOT NULL,
    provider text NOT NULL,
    payment_id varchar(255) NOT NULL,
    customer_id varchar(255),
    payment_method_id varchar(255),
    card varchar(255),
    consent_version varchar(255) NOT NULL,
    consent_text varchar(1000) NOT NULL,
    consented_at timestamptz NOT NULL,
    api_key_id uuid,
    database_role text,
    failures bigint NOT NULL DEFAULT 0,
    problem text,
    next_attempt_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text,
    CONSTRAINT top_ups_pkey PRIMARY KEY (id),
    CONSTRAINT top_ups_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT top_ups_provider FOREIGN KEY (provider)
        REFERENCES billing_data.payment_providers (kind) ON DELETE RESTRICT,
    CONSTRAINT top_ups_threshold CHECK (threshold >= 0),
    CONSTRAINT top_ups_packs CHECK (packs BETWEEN 1 AND 1000),
    CONSTRAINT top_ups_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT top_ups_cap CHECK (monthly_cap_minor >= amount_minor),
    CONSTRAINT top_ups_card CHECK (
        ended_at IS NOT NULL OR num_nonnulls(customer_id, payment_method_id) = 2
    ),
    CONSTRAINT top_ups_one_writer CHECK (num_nonnulls(api_key_id, database_role) = 1),
    CONSTRAINT top_ups_failures CHECK (
        failures BETWEEN 0 AND 2 OR (failures = 3 AND ended_at IS NOT NULL)
    ),
    CONSTRAINT top_ups_problem CHECK (problem ~ '^[a-z][a-z0-9_]{0,99}$'),
    CONSTRAINT top_ups_ended CHECK (num_nonnulls(ended_at, end_reason) IN (0, 2)),
    CONSTRAINT top_ups_end_reason CHECK (
        end_reason IN (
            'erased', 'failures', 'merged', 'price_changed', 'replaced', 'staff', 'withdrawn'
        )
    )
)
WITH (fillfactor = 80);
ALTER TABLE billing_data.top_ups OWNER TO billing_owner;
CREATE UNIQUE INDEX top_ups_one_in_force ON billing_data.top_ups (account_id)
    WHERE ended_at IS NULL;
CREATE INDEX top_ups_account_id ON billing_data.top_ups (account_id, consented_at);

CREATE TABLE billing_data.top_up_attempts (
    account_id uuid NOT NULL,
    purchase_id uuid NOT NULL,
    top_up_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'open',
    problem text,
    tries bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    leased_until timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT top_up_attempts_pkey PRIMARY KEY (account_id, purchase_id),
    CONSTRAINT top_up_attempts_purchase FOREIGN KEY (account_id, purchase_id)
        REFERENCES billing_data.purchases (account_id, id) ON DELETE RESTRICT,
    CONSTRAINT top_up_attempts_top_up FOREIGN KEY (top_up_id)
        REFERENCES billing_data.top_ups (id) ON DELETE RESTRICT,
    CONSTRAINT top_up_attempts_state CHECK (state IN ('open', 'succeeded', 'failed', 'canceled')),
    CONSTRAINT top_up_attempts_problem CHECK (problem ~ '^[a-z][a-z0-9_]{0,99}$'),
    CONSTRAINT top_up_attempts_failed CHECK (state <> 'failed' OR problem IS NOT NULL),
    CONSTRAINT top_up_attempts_tries CHECK (tries >= 0),
    CONSTRAINT top_up_attempts_ended CHECK ((state = 'open') = (ended_at IS NULL))
)
WITH (fillfactor = 80);
ALTER TABLE billing_data.top_up_attempts OWNER TO billing_owner;
CREATE UNIQUE INDEX top_up_attempts_one_open ON billing_data.top_up_attempts (account_id)
    WHERE state = 'open';
