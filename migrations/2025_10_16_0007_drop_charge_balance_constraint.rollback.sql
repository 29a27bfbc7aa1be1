-- Free uses do not fit under the old rule. They stay, since a repeated request must still find its
-- charge, and so does balance_after, the balance that the charge left behind. Only their
-- balance_before is raised to fit, and with that it is lost which charges were free.

SET LOCAL lock_timeout = '5s';

LOCK TABLE public.charges IN ACCESS EXCLUSIVE MODE;

UPDATE public.charges
SET balance_before = balance_after + amount_minor
WHERE balance_after <> balance_before - amount_minor;

ALTER TABLE public.charges
    ADD CONSTRAINT ck_charge_balance_consistency
        CHECK (balance_after = balance_before - amount_minor);
