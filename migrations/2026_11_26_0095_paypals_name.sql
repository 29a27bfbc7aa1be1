-- PayPal writes its name with two capitals; people read it in the list of providers.
-- depends: 2026_11_26_0090_maintenance
SET LOCAL lock_timeout = '1s';

UPDATE billing_data.payment_providers SET name = 'PayPal' WHERE kind = 'paypal' AND name = 'Paypal';
