-- A free use is a charge too: it leaves the balance as it was and is recorded all the same. The
-- rule that a charge always lowers the balance by its amount refused such rows.

-- depends: 2025_10_15_0006_customer_email

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.charges
    DROP CONSTRAINT ck_charge_balance_consistency;
