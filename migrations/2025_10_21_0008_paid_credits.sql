-- balance_minor was named for cents but counted credits. From here on paid_credits counts the
-- credits a user has bought or was given, and takes over what balance_minor held; balance_minor is
-- 0 everywhere and reserved for real currency. ck_balance_non_negative holds, so positive balances
-- are all there are.

-- depends: 2025_10_16_0007_drop_charge_balance_constraint

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    ADD COLUMN paid_credits bigint NOT NULL DEFAULT 0;

UPDATE public.accounts
SET paid_credits = balance_minor,
    balance_minor = 0
WHERE balance_minor > 0;

ALTER TABLE public.accounts
    ADD CONSTRAINT ck_paid_credits_non_negative CHECK (paid_credits >= 0);
