-- Every consent is lost and must be asked for again.

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    DROP COLUMN marketing_opt_in_source,
    DROP COLUMN marketing_opt_in_at,
    DROP COLUMN marketing_opt_in;
