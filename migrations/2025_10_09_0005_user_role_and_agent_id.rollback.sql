-- Both are lost; agents send them again.

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    DROP COLUMN agent_id,
    DROP COLUMN user_role;
