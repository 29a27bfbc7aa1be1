-- Of which lots it was told that they expire soon: an alert for each is raised once.
-- depends: 2026_11_26_0115_webhooks
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.announced_lots (
    lot_id uuid NOT NULL,
    announced_at timestamptz NOT NULL,
    CONSTRAINT announced_lots_pkey PRIMARY KEY (lot_id),
    CONSTRAINT announced_lots_lot FOREIGN KEY (lot_id)
        REFERENCES billing_data.lots (id) ON DELETE CASCADE
);
ALTER TABLE billing_data.announced_lots OWNER TO billing_owner;
