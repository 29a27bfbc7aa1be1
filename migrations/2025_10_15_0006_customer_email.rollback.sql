-- The addresses are lost.

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    DROP COLUMN customer_email;
