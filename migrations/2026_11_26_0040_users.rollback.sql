SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

ALTER TABLE billing_data.usage_figures_state DROP COLUMN users_through;
DROP TABLE billing_data.users_by_day;
DROP TABLE billing_data.user_activity;
-- The tables of before knew nothing of the meantime.
UPDATE billing_data.usage_figures_state SET complete_through = '-infinity';
DELETE FROM billing_data.active_accounts;
DELETE FROM billing_data.active_accounts_by_day;
