-- Who used the service in the last days, told truly: a user is an account that was charged, and
-- users of 30 days are no sum of daily ones. One row an account with its newest day serves every
-- span that ends today; how many there were each day stands beside it. Both are rolled up from the
-- beginning. active_accounts and active_accounts_by_day, which counted buyers too, are used no
-- more; the release before still may, so that a later step takes them away.
-- depends: 2026_11_26_0038_payment_effects_backfill
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.user_activity (
    account_id uuid NOT NULL,
    last_day date NOT NULL,
    CONSTRAINT user_activity_pkey PRIMARY KEY (account_id)
);
ALTER TABLE billing_data.user_activity OWNER TO billing_owner;
CREATE INDEX user_activity_last_day ON billing_data.user_activity (last_day);

CREATE TABLE billing_data.users_by_day (
    day date NOT NULL,
    users bigint NOT NULL,
    CONSTRAINT users_by_day_pkey PRIMARY KEY (day)
);
ALTER TABLE billing_data.users_by_day OWNER TO billing_owner;

ALTER TABLE billing_data.usage_figures_state
    ADD COLUMN users_through timestamptz NOT NULL DEFAULT '-infinity';
