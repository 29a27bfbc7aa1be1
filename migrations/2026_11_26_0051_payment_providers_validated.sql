-- Validates the references of the step before, which reads the tables and holds up nobody's writes.
-- depends: 2026_11_26_0050_payment_providers
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.provider_configs VALIDATE CONSTRAINT provider_configs_provider_type;
ALTER TABLE billing_data.purchases VALIDATE CONSTRAINT purchases_provider;
ALTER TABLE billing_data.payment_events VALIDATE CONSTRAINT payment_events_provider;
ALTER TABLE billing_data.payment_returns VALIDATE CONSTRAINT payment_returns_provider;
ALTER TABLE billing_data.payment_effects VALIDATE CONSTRAINT payment_effects_provider;
ALTER TABLE billing_data.payment_warnings VALIDATE CONSTRAINT payment_warnings_provider;
