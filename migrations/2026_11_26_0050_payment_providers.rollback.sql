SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;
-- Helpers that read the table, and those that call them.
DROP FUNCTION IF EXISTS
    billing_data.role_of_caller, billing_data.caller_role, billing_data.is_name_of_provider,
    billing_data.provider_name, billing_data.provider_of_payment, billing_data.provider_mode,
    billing_data.mask_config;

-- Rows of a provider that the older release does not know stop this: they are somebody's money.
ALTER TABLE billing_data.provider_configs
    DROP CONSTRAINT provider_configs_provider_type,
    ADD CONSTRAINT ck_provider_configs_type
        CHECK (provider_type IN ('stripe', 'square', 'paypal'));
ALTER TABLE billing_data.purchases
    DROP CONSTRAINT purchases_provider,
    ALTER COLUMN provider SET DEFAULT 'stripe',
    ADD CONSTRAINT purchases_provider CHECK (provider IN ('stripe', 'square', 'paypal'));
ALTER TABLE billing_data.payment_events
    DROP CONSTRAINT payment_events_provider,
    ADD CONSTRAINT payment_events_provider CHECK (provider IN ('stripe', 'square', 'paypal'));
ALTER TABLE billing_data.payment_returns
    DROP CONSTRAINT payment_returns_provider,
    ADD CONSTRAINT payment_returns_provider CHECK (provider IN ('stripe', 'square', 'paypal'));
ALTER TABLE billing_data.payment_effects
    DROP CONSTRAINT payment_effects_provider,
    ADD CONSTRAINT payment_effects_provider CHECK (provider IN ('stripe', 'square', 'paypal'));
ALTER TABLE billing_data.payment_warnings
    DROP CONSTRAINT payment_warnings_provider,
    ADD CONSTRAINT payment_warnings_provider CHECK (provider IN ('stripe', 'square', 'paypal'));
DROP TABLE billing_data.payment_providers;
