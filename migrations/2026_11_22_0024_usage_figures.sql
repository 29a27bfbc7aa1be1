-- What the dashboard shows over months of ledger, rolled up in slots of five minutes; what is newer
-- than the last finished slot is counted from the ledger itself. Checks get a BRIN index by time:
-- the table is appended to in that order, so it costs next to nothing.
-- depends: 2026_11_22_0023_staff_sessions
SET LOCAL lock_timeout = '5s';

CREATE TABLE billing_data.usage_figures (
    slot timestamptz NOT NULL,
    checks bigint NOT NULL DEFAULT 0,
    checks_denied bigint NOT NULL DEFAULT 0,
    charges bigint NOT NULL DEFAULT 0,
    free_charges bigint NOT NULL DEFAULT 0,
    charge_amount numeric NOT NULL DEFAULT 0,
    credits_used numeric NOT NULL DEFAULT 0,
    credits bigint NOT NULL DEFAULT 0,
    credits_added numeric NOT NULL DEFAULT 0,
    credits_sold numeric NOT NULL DEFAULT 0,
    credits_taken_back numeric NOT NULL DEFAULT 0,
    accounts_created bigint NOT NULL DEFAULT 0,
    CONSTRAINT usage_figures_pkey PRIMARY KEY (slot)
);
ALTER TABLE billing_data.usage_figures OWNER TO billing_owner;

CREATE TABLE billing_data.active_accounts (
    day date NOT NULL,
    account_id uuid NOT NULL,
    CONSTRAINT active_accounts_pkey PRIMARY KEY (day, account_id)
);
ALTER TABLE billing_data.active_accounts OWNER TO billing_owner;

CREATE TABLE billing_data.active_accounts_by_day (
    day date NOT NULL,
    accounts bigint NOT NULL,
    CONSTRAINT active_accounts_by_day_pkey PRIMARY KEY (day)
);
ALTER TABLE billing_data.active_accounts_by_day OWNER TO billing_owner;

CREATE TABLE billing_data.usage_figures_state (
    id boolean NOT NULL DEFAULT true,
    complete_through timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT usage_figures_state_pkey PRIMARY KEY (id),
    CONSTRAINT usage_figures_state_one_row CHECK (id)
);
ALTER TABLE billing_data.usage_figures_state OWNER TO billing_owner;
INSERT INTO billing_data.usage_figures_state (id) VALUES (true);

CREATE INDEX credit_checks_created_at ON billing_data.credit_checks USING brin (created_at)
    WITH (autosummarize = on);
