-- Support wants to see what kind of user an account belongs to and which agent brought them. Agents
-- send both as they like, so nothing is required or checked here.

-- depends: 2025_10_08_0004_marketing_consent

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    ADD COLUMN user_role varchar(50),
    ADD COLUMN agent_id varchar(255);
