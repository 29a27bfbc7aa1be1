-- A purchase needs an address for the receipt, and staff look people up by it. The identity
-- provider's id says neither, so the account keeps the customer's e-mail address.

-- depends: 2025_10_09_0005_user_role_and_agent_id

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    ADD COLUMN customer_email varchar(255);
