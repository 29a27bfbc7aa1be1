-- Credits of the usual kind (usual priority, no end) are one pool of the account and need no row.
-- Every other credit has a row of billing_data.lots, which knows what is left of it;
-- billing_data.lot_allocations says what each ledger entry took of a lot or gave back to it, and
-- billing_data.hold_lots what an open hold keeps of it. accounts.has_lots says whether an account
-- must look for lots at all.
-- depends: 2026_11_26_0101_holds_validated
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.accounts ADD COLUMN has_lots boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN billing_data.accounts.has_lots IS
    'Whether some of the credits are of a lot that has something left or held.';

CREATE TABLE billing_data.lots (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    credit_id uuid NOT NULL,
    origin_id uuid NOT NULL,
    source text NOT NULL,
    amount_minor bigint NOT NULL,
    left_minor bigint NOT NULL,
    has_left boolean NOT NULL GENERATED ALWAYS AS (left_minor > 0) STORED,
    priority smallint NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT lots_pkey PRIMARY KEY (id),
    CONSTRAINT lots_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT lots_credit FOREIGN KEY (credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    CONSTRAINT lots_origin FOREIGN KEY (origin_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    CONSTRAINT lots_source CHECK (source IN ('purchase', 'grant', 'promotion', 'refund')),
    CONSTRAINT lots_amount CHECK (amount_minor > 0),
    CONSTRAINT lots_left CHECK (left_minor >= 0 AND left_minor <= amount_minor),
    CONSTRAINT lots_priority CHECK (priority >= 0 AND priority <= 100),
    CONSTRAINT lots_expires_at CHECK (isfinite(expires_at))
)
WITH (fillfactor = 70);
ALTER TABLE billing_data.lots OWNER TO billing_owner;
COMMENT ON TABLE billing_data.lots IS
    'Credits that are not of the usual kind, and what is left of each.';
COMMENT ON COLUMN billing_data.lots.credit_id IS
    'The entry that brought the lot to this account.';
COMMENT ON COLUMN billing_data.lots.origin_id IS
    'The credit that the lot was at first, before transfers and merges.';
-- has_left changes only when a lot is used up, so that updates of left_minor stay HOT.
CREATE INDEX lots_of_account ON billing_data.lots (account_id) WHERE has_left;
CREATE INDEX lots_all_of_account ON billing_data.lots (account_id, id);
CREATE INDEX lots_by_credit ON billing_data.lots (credit_id);
CREATE INDEX lots_to_end ON billing_data.lots (expires_at)
    WHERE has_left AND expires_at IS NOT NULL;

CREATE TABLE billing_data.lot_allocations (
    entry_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    CONSTRAINT lot_allocations_pkey PRIMARY KEY (entry_id, lot_id),
    CONSTRAINT lot_allocations_lot FOREIGN KEY (lot_id)
        REFERENCES billing_data.lots (id) ON DELETE RESTRICT,
    CONSTRAINT lot_allocations_amount CHECK (amount_minor <> 0)
);
ALTER TABLE billing_data.lot_allocations OWNER TO billing_owner;
COMMENT ON TABLE billing_data.lot_allocations IS
    'What each ledger entry took of a lot; less than 0 where it gave back.';
CREATE INDEX lot_allocations_lot_id ON billing_data.lot_allocations (lot_id);

CREATE TABLE billing_data.hold_lots (
    hold_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    CONSTRAINT hold_lots_pkey PRIMARY KEY (hold_id, lot_id),
    CONSTRAINT hold_lots_hold FOREIGN KEY (hold_id)
        REFERENCES billing_data.holds (id) ON DELETE RESTRICT,
    CONSTRAINT hold_lots_lot FOREIGN KEY (lot_id)
        REFERENCES billing_data.lots (id) ON DELETE RESTRICT,
    CONSTRAINT hold_lots_amount CHECK (amount_minor > 0)
);
ALTER TABLE billing_data.hold_lots OWNER TO billing_owner;
COMMENT ON TABLE billing_data.hold_lots IS 'What each hold keeps of a lot while it is open.';
