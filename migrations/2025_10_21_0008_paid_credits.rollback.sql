-- The credits go back to balance_minor. They are added to it, so that a balance entered there since
-- is not lost, although the two can no longer be told apart.

SET LOCAL lock_timeout = '5s';

LOCK TABLE public.accounts IN ACCESS EXCLUSIVE MODE;

UPDATE public.accounts
SET balance_minor = balance_minor + paid_credits
WHERE paid_credits > 0;

ALTER TABLE public.accounts
    DROP COLUMN paid_credits;
