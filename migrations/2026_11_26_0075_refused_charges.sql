-- What was refused, so that somebody can be told why. A row stands for all refusals of one account,
-- API key and reason in one minute: a client that tries again for hours adds one row a minute.
-- depends: 2026_11_26_0066_merges_validated
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.refused_charges (
    account_id uuid NOT NULL,
    minute timestamptz NOT NULL,
    reason text NOT NULL,
    api_key_id uuid,
    database_role text,
    refusals bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    amount_minor bigint NOT NULL,
    currency varchar(3) NOT NULL,
    paid_credits bigint NOT NULL,
    free_uses_remaining bigint NOT NULL,
    account_currency varchar(3) NOT NULL,
    agent_id varchar(255),
    channel_id varchar(255),
    request_id varchar(255),
    CONSTRAINT refused_charges_once
        UNIQUE NULLS NOT DISTINCT (account_id, minute, reason, api_key_id),
    CONSTRAINT refused_charges_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT refused_charges_reason CHECK (
        reason IN (
            'account_closed', 'account_suspended', 'charge_currency_mismatch',
            'insufficient_credits'
        )
    ),
    CONSTRAINT refused_charges_writer CHECK (num_nonnulls(api_key_id, database_role) = 1),
    CONSTRAINT refused_charges_minute
        CHECK (first_at >= minute AND last_at < minute + interval '1 minute'),
    CONSTRAINT refused_charges_in_order CHECK (first_at <= last_at),
    CONSTRAINT refused_charges_positive CHECK (refusals > 0 AND amount_minor > 0)
)
WITH (fillfactor = 80);
ALTER TABLE billing_data.refused_charges OWNER TO billing_owner;
CREATE INDEX refused_charges_by_time ON billing_data.refused_charges
    USING brin (minute) WITH (autosummarize = on);
