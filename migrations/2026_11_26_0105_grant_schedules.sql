-- Credits that come at a time: once, or every day, week or month. Each grant that a schedule made
-- is a row of billing_data.scheduled_grants, of which there is one for a schedule and period.
-- depends: 2026_11_26_0104_lots
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.grant_schedules (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    made_for uuid NOT NULL,
    amount_minor bigint NOT NULL,
    transaction_type text NOT NULL,
    source text,
    priority smallint,
    description varchar(1000) NOT NULL,
    repeat text NOT NULL,
    day smallint,
    rollover boolean NOT NULL,
    lasts_days integer,
    expires_at timestamptz,
    next_at timestamptz,
    ends_at timestamptz,
    grants_left bigint,
    is_paused boolean NOT NULL DEFAULT false,
    reason text,
    idempotency_key varchar(255),
    request_fingerprint bytea NOT NULL,
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT grant_schedules_pkey PRIMARY KEY (id),
    CONSTRAINT grant_schedules_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT grant_schedules_made_for FOREIGN KEY (made_for)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT grant_schedules_amount CHECK (amount_minor > 0),
    CONSTRAINT grant_schedules_type
        CHECK (transaction_type IN ('purchase', 'grant', 'refund', 'adjustment')),
    CONSTRAINT grant_schedules_source
        CHECK (source IN ('purchase', 'grant', 'promotion', 'refund')),
    CONSTRAINT grant_schedules_priority CHECK (priority >= 0 AND priority <= 100),
    CONSTRAINT grant_schedules_repeat CHECK (repeat IN ('once', 'daily', 'weekly', 'monthly')),
    CONSTRAINT grant_schedules_day CHECK (
        CASE repeat
            WHEN 'weekly' THEN day IS NOT NULL AND day >= 1 AND day <= 7
            WHEN 'monthly' THEN day IS NOT NULL AND day >= 1 AND day <= 31
            ELSE day IS NULL
        END
    ),
    CONSTRAINT grant_schedules_once CHECK (
        CASE repeat WHEN 'once' THEN rollover AND lasts_days IS NULL ELSE expires_at IS NULL END
    ),
    CONSTRAINT grant_schedules_lasts CHECK (lasts_days >= 1 AND lasts_days <= 3650),
    CONSTRAINT grant_schedules_times CHECK (
        isfinite(expires_at) AND isfinite(next_at) AND isfinite(ends_at)
    ),
    CONSTRAINT grant_schedules_left CHECK (grants_left >= 0),
    CONSTRAINT grant_schedules_reason CHECK (length(reason) <= 500),
    CONSTRAINT grant_schedules_one_writer
        CHECK (num_nonnulls(api_key_id, admin_user_id, database_role) = 1)
)
WITH (fillfactor = 80);
ALTER TABLE billing_data.grant_schedules OWNER TO billing_owner;
COMMENT ON TABLE billing_data.grant_schedules IS
    'Credits that are given at a time, or again and again.';
COMMENT ON COLUMN billing_data.grant_schedules.made_for IS
    'The account that it was made for, before merges.';
COMMENT ON COLUMN billing_data.grant_schedules.next_at IS
    'When the next grant is due; NULL when none is to come.';
CREATE INDEX grant_schedules_of_account ON billing_data.grant_schedules (account_id, id);
CREATE INDEX grant_schedules_due ON billing_data.grant_schedules (next_at)
    WHERE next_at IS NOT NULL AND NOT is_paused;
CREATE UNIQUE INDEX grant_schedules_idempotency
    ON billing_data.grant_schedules (made_for, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE billing_data.scheduled_grants (
    schedule_id uuid NOT NULL,
    due_at timestamptz NOT NULL,
    credit_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT scheduled_grants_pkey PRIMARY KEY (schedule_id, due_at),
    CONSTRAINT scheduled_grants_schedule FOREIGN KEY (schedule_id)
        REFERENCES billing_data.grant_schedules (id) ON DELETE RESTRICT,
    CONSTRAINT scheduled_grants_credit FOREIGN KEY (credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    CONSTRAINT scheduled_grants_credit_once UNIQUE (credit_id)
);
ALTER TABLE billing_data.scheduled_grants OWNER TO billing_owner;
COMMENT ON TABLE billing_data.scheduled_grants IS
    'Which credit a schedule gave for which of its times; one at most for each.';
