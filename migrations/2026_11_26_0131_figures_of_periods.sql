-- Figures of any period, not only of one that ends today: how many different users it had, and its
-- money. user_pauses counts the users of each day by the day on which each was there before, so
-- that the users of a period are those of its days who were last there before the period. The
-- roll-up fills it from the beginning when it is empty. The indexes find the money of a period.
-- depends: 2026_11_26_0130_payment_refunds
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.user_pauses (
    day date NOT NULL,
    previous_day date NOT NULL,
    users bigint NOT NULL,
    CONSTRAINT user_pauses_pkey PRIMARY KEY (day, previous_day),
    CONSTRAINT user_pauses_before CHECK (previous_day < day)
);
ALTER TABLE billing_data.user_pauses OWNER TO billing_owner;

CREATE INDEX purchases_settled_at ON billing_data.purchases (settled_at)
    INCLUDE (currency, price_minor) WHERE settled_at IS NOT NULL;
CREATE INDEX payment_returns_created_at ON billing_data.payment_returns (created_at);
