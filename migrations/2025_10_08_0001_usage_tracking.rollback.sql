-- Both counters are lost; their constraints go with the columns.

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    DROP COLUMN total_uses,
    DROP COLUMN free_uses_remaining;
