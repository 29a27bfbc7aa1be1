SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;

-- Helpers that give rows of what this rollback drops.
DROP FUNCTION IF EXISTS billing_data.usage_since;
DROP FUNCTION IF EXISTS billing_data.count_usage;

DROP INDEX billing_data.credit_checks_created_at;
DROP TABLE billing_data.usage_figures_state;
DROP TABLE billing_data.active_accounts_by_day;
DROP TABLE billing_data.active_accounts;
DROP TABLE billing_data.usage_figures;
