-- One payment has one effect: credited with one credit, refunded, or dealt with otherwise by a
-- person. The primary key is what keeps a payment from being credited twice, whoever credits it
-- (the provider's event, a client of the API, staff, a DBA) and on whichever account. What a person
-- must look at beside a provider's events (a report of fraud, a second credit) has a table of its
-- own. Two more outcomes of events; the lists of outcomes are extended, not written again, so that
-- the steps that do so may come in any order.
-- depends: 2026_11_26_0035_unreadable_charges
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.payment_effects (
    provider text NOT NULL,
    payment_id varchar(255) NOT NULL,
    effect text NOT NULL,
    account_id uuid,
    credit_id uuid,
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    resolution text,
    -- What the purchase was before a person's credit settled it; for taking that back.
    purchase_before jsonb,
    CONSTRAINT payment_effects_purchase_before_length
        CHECK (length(purchase_before::text) <= 65536),
    CONSTRAINT payment_effects_pkey PRIMARY KEY (provider, payment_id),
    CONSTRAINT payment_effects_provider CHECK (provider IN ('stripe', 'square', 'paypal')),
    CONSTRAINT payment_effects_effect CHECK (effect IN ('credited', 'refunded', 'other')),
    CONSTRAINT payment_effects_credited CHECK (
        num_nonnulls(account_id, credit_id) = CASE effect WHEN 'credited' THEN 2 ELSE 0 END
    ),
    CONSTRAINT payment_effects_credit_once UNIQUE (credit_id),
    -- Claimed first, credited then: the entry is there when the transaction ends.
    CONSTRAINT payment_effects_credit FOREIGN KEY (credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT payment_effects_resolved CHECK ((resolved_at IS NULL) = (resolution IS NULL)),
    CONSTRAINT payment_effects_by_a_person CHECK (effect = 'credited' OR resolved_at IS NOT NULL),
    CONSTRAINT payment_effects_resolution_length CHECK (length(resolution) BETWEEN 1 AND 500)
) WITH (fillfactor = 80);
ALTER TABLE billing_data.payment_effects OWNER TO billing_owner;

CREATE TABLE billing_data.payment_warnings (
    provider text NOT NULL,
    warning_id varchar(255) NOT NULL,
    kind text NOT NULL,
    payment_id varchar(255) NOT NULL,
    account_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    resolution text,
    CONSTRAINT payment_warnings_pkey PRIMARY KEY (provider, warning_id),
    CONSTRAINT payment_warnings_provider CHECK (provider IN ('stripe', 'square', 'paypal')),
    CONSTRAINT payment_warnings_kind CHECK (kind IN ('fraud_warning', 'credited_twice')),
    CONSTRAINT payment_warnings_resolved CHECK ((resolved_at IS NULL) = (resolution IS NULL)),
    CONSTRAINT payment_warnings_resolution_length CHECK (length(resolution) BETWEEN 1 AND 500)
) WITH (fillfactor = 80);
ALTER TABLE billing_data.payment_warnings OWNER TO billing_owner;
CREATE INDEX payment_warnings_open ON billing_data.payment_warnings (created_at)
    WHERE resolved_at IS NULL;

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
        || replace(v_outcomes, 'ARRAY[', 'ARRAY[''resolved''::text, ''credited_by_hand''::text, ');
    DROP INDEX billing_data.payment_events_faults;
    EXECUTE replace(v_index, 'ARRAY[', 'ARRAY[''credited_by_hand''::text, ');
END
$$;
