SET LOCAL lock_timeout = '1s';

UPDATE billing_data.payment_providers SET name = 'Paypal' WHERE kind = 'paypal' AND name = 'PayPal';
