-- A return of money becomes a state: how much of it is away now. What was heard of it last is kept,
-- so that older news changes nothing, and every entry it made, since a dispute may be lost, won and
-- lost again. One more outcome of events, for payments that claim to be ours and cannot show it;
-- the list of outcomes is extended, not written again, so that steps that do so may come in any
-- order.
-- depends: 2026_11_26_0032_ledger_openings
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.payment_returns
    ADD COLUMN away_minor bigint NOT NULL DEFAULT 0,
    ADD COLUMN state text NOT NULL DEFAULT 'open',
    ADD COLUMN transactions bigint,
    ADD COLUMN as_of timestamptz NOT NULL DEFAULT 'epoch';

DO $$
DECLARE
    v_outcomes text;
    v_index text := pg_get_indexdef('billing_data.payment_events_faults'::regclass);
BEGIN
    SELECT pg_get_constraintdef(c.oid) INTO STRICT v_outcomes
    FROM pg_catalog.pg_constraint AS c
    WHERE c.conrelid = 'billing_data.payment_events'::regclass
        AND c.conname = 'payment_events_outcome';
    ALTER TABLE billing_data.payment_events DROP CONSTRAINT payment_events_outcome;
    EXECUTE 'ALTER TABLE billing_data.payment_events ADD CONSTRAINT payment_events_outcome '
        || replace(v_outcomes, 'ARRAY[', 'ARRAY[''not_sold_here''::text, ');
    DROP INDEX billing_data.payment_events_faults;
    EXECUTE replace(v_index, 'ARRAY[', 'ARRAY[''not_sold_here''::text, ');
END
$$;

-- Last, since it locks the ledger for a moment.
CREATE TABLE billing_data.payment_return_credits (
    account_id uuid NOT NULL,
    provider text NOT NULL,
    return_id varchar(255) NOT NULL,
    credit_id uuid NOT NULL,
    CONSTRAINT payment_return_credits_pkey
        PRIMARY KEY (account_id, provider, return_id, credit_id),
    CONSTRAINT payment_return_credits_once UNIQUE (credit_id),
    CONSTRAINT payment_return_credits_return FOREIGN KEY (account_id, provider, return_id)
        REFERENCES billing_data.payment_returns (account_id, provider, return_id)
        ON DELETE RESTRICT,
    CONSTRAINT payment_return_credits_credit FOREIGN KEY (credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT
);
ALTER TABLE billing_data.payment_return_credits OWNER TO billing_owner;
