-- Alerts for other systems. An alert is written to the outbox by the transaction that causes it, a
-- row for each endpoint that wants its kind; the servers deliver the rows afterwards.
-- No foreign key leads from a row to its endpoint: it would lock the endpoint's row for every
-- charge that raises an alert, and an endpoint that is deleted would make such a charge fail.
-- depends: 2026_11_26_0111_caps_validated
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.settings
    ADD COLUMN low_balance bigint,
    ADD CONSTRAINT settings_low_balance CHECK (low_balance BETWEEN 1 AND 1000000000000);

CREATE TABLE billing_data.webhook_endpoints (
    id uuid NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    kinds text[] NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'off',
    secret jsonb NOT NULL,
    old_secret jsonb,
    old_secret_until timestamptz,
    tried_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (id),
    CONSTRAINT webhook_endpoints_name CHECK (length(name) BETWEEN 1 AND 255),
    CONSTRAINT webhook_endpoints_url
        CHECK (length(url) <= 2000 AND url ~ '^https?://[^[:space:]/?#@]+'),
    CONSTRAINT webhook_endpoints_status CHECK (status IN ('off', 'on', 'paused')),
    CONSTRAINT webhook_endpoints_tried CHECK (status = 'off' OR tried_at IS NOT NULL),
    CONSTRAINT webhook_endpoints_old_secret
        CHECK ((old_secret IS NULL) = (old_secret_until IS NULL))
);
ALTER TABLE billing_data.webhook_endpoints OWNER TO billing_owner;
COMMENT ON COLUMN billing_data.webhook_endpoints.kinds IS
    'The kinds of alerts that are sent there; empty: all.';
COMMENT ON COLUMN billing_data.webhook_endpoints.tried_at IS
    'When it last accepted a test event at this address; NULL: never.';

CREATE TABLE billing_data.outbox (
    id uuid NOT NULL,
    event_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    kind text NOT NULL,
    account_id uuid,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    attempted_at timestamptz,
    answer_status integer,
    error text,
    settled_at timestamptz,
    CONSTRAINT outbox_pkey PRIMARY KEY (id),
    CONSTRAINT outbox_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT outbox_kind CHECK (length(kind) BETWEEN 1 AND 50),
    CONSTRAINT outbox_data CHECK (jsonb_typeof(data) = 'object'),
    CONSTRAINT outbox_state CHECK (state IN ('waiting', 'delivered', 'failed')),
    CONSTRAINT outbox_attempts CHECK (attempts >= 0),
    CONSTRAINT outbox_error CHECK (length(error) <= 255),
    CONSTRAINT outbox_settled CHECK ((state = 'waiting') = (settled_at IS NULL))
)
WITH (fillfactor = 80);
ALTER TABLE billing_data.outbox OWNER TO billing_owner;
CREATE INDEX outbox_open ON billing_data.outbox (endpoint_id, state, due_at)
    WHERE state <> 'delivered';
CREATE INDEX outbox_by_account ON billing_data.outbox (account_id);
COMMENT ON COLUMN billing_data.outbox.event_id IS
    'The webhook-id: one for all endpoints that are told of an alert, and for all attempts.';
COMMENT ON COLUMN billing_data.outbox.due_at IS
    'When it is delivered next. A server that delivers it puts this off until its lease ends.';
COMMENT ON COLUMN billing_data.outbox.error IS
    'Why the last attempt failed, in words of ours; nothing of an answer is stored.';
