SET LOCAL lock_timeout = '1s';

-- What this step finds again. What a person said since then stays.
DELETE FROM billing_data.payment_effects AS e WHERE e.resolved_at IS NULL;
