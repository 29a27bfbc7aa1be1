-- Caps on what is charged: for an API key, an account, an agent or for all, in a minute, a day or a
-- month. A row of cap_usage counts what a window of a cap has used; a charge that a cap applies to
-- holds that row until it commits. cap_usage has no foreign key, so that a cap can be deleted while
-- charges count on it: the row that they leave goes with the old windows.
-- depends: 2026_11_26_0105_grant_schedules
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.caps (
    id uuid NOT NULL,
    scope text NOT NULL,
    -- Whom it is for: the id of the first API key of a chain of rotations, an account's id, an
    -- agent's id; empty where it is for all.
    subject text NOT NULL,
    period text NOT NULL,
    mode text NOT NULL,
    limit_minor bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT caps_pkey PRIMARY KEY (id),
    CONSTRAINT caps_once UNIQUE (scope, subject, period, mode),
    CONSTRAINT caps_scope CHECK (scope IN ('all', 'api_key', 'account', 'agent')),
    CONSTRAINT caps_subject CHECK ((scope = 'all') = (subject = '') AND length(subject) <= 255),
    CONSTRAINT caps_period CHECK (period IN ('minute', 'day', 'month')),
    CONSTRAINT caps_mode CHECK (mode IN ('hard', 'alert')),
    CONSTRAINT caps_limit CHECK (limit_minor >= 0)
)
WITH (fillfactor = 80);
ALTER TABLE billing_data.caps OWNER TO billing_owner;

CREATE TABLE billing_data.cap_usage (
    cap_id uuid NOT NULL,
    window_start timestamptz NOT NULL,
    used_minor bigint NOT NULL DEFAULT 0,
    reached_at timestamptz,
    CONSTRAINT cap_usage_pkey PRIMARY KEY (cap_id, window_start),
    CONSTRAINT cap_usage_not_negative CHECK (used_minor >= 0)
)
WITH (fillfactor = 70);
ALTER TABLE billing_data.cap_usage OWNER TO billing_owner;

-- An item of a list of charges, and a cap that applies to it.
-- What caps look at of a charge or hold that is asked for.
CREATE TYPE billing_data.cap_request AS (
    oauth_provider text, external_id text, amount_minor bigint, currency text,
    idempotency_key text, metadata_agent_id text, api_key_id uuid
);
ALTER TYPE billing_data.cap_request OWNER TO billing_owner;
CREATE TYPE billing_data.capped_item AS (item integer, cap_id uuid, amount_minor bigint);
ALTER TYPE billing_data.capped_item OWNER TO billing_owner;

-- Refusals by caps are recorded as others are, with the cap that refused.
ALTER TABLE billing_data.refused_charges
    ADD COLUMN cap jsonb,
    DROP CONSTRAINT refused_charges_reason,
    ADD CONSTRAINT refused_charges_reason CHECK (
        reason IN (
            'account_cap_reached', 'account_closed', 'account_suspended', 'cap_reached',
            'charge_currency_mismatch', 'insufficient_credits'
        )
    ) NOT VALID,
    ADD CONSTRAINT refused_charges_cap CHECK (
        (cap IS NOT NULL) = (reason IN ('account_cap_reached', 'cap_reached'))
    ) NOT VALID;
