-- Users may be written to only if they agreed. The account keeps whether, when and where they did;
-- nobody has agreed until they say so.

-- depends: 2025_10_08_0003_oauth_instead_of_passwords

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    ADD COLUMN marketing_opt_in boolean NOT NULL DEFAULT false,
    ADD COLUMN marketing_opt_in_at timestamptz,
    ADD COLUMN marketing_opt_in_source varchar(50);
