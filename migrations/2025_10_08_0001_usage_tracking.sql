-- New users try an agent before they pay: three uses are free, then credits are asked for. The
-- account counts the free uses left and all uses ever made. Accounts that exist already get their
-- three as well.

-- depends: 2025_10_08_0000_initial_schema

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.accounts
    ADD COLUMN free_uses_remaining bigint NOT NULL DEFAULT 3,
    ADD COLUMN total_uses bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT ck_free_uses_non_negative CHECK (free_uses_remaining >= 0),
    ADD CONSTRAINT ck_total_uses_non_negative CHECK (total_uses >= 0);
