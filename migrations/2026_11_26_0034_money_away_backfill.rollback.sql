SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

-- The release before knows a return that is away whole or not at all: what is away becomes its
-- amount. It knows two entries of each: the first that took and the last that gave back.
ALTER TABLE billing_data.payment_returns
    DROP CONSTRAINT payment_returns_away,
    DROP CONSTRAINT payment_returns_nothing_away,
    DROP CONSTRAINT payment_returns_state,
    DROP CONSTRAINT payment_returns_transactions,
    ALTER COLUMN away_minor SET DEFAULT 0,
    ALTER COLUMN state SET DEFAULT 'open',
    ALTER COLUMN as_of SET DEFAULT 'epoch',
    ADD COLUMN credit_id uuid,
    ADD COLUMN restoring_credit_id uuid,
    ADD CONSTRAINT payment_returns_credit FOREIGN KEY (credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    ADD CONSTRAINT payment_returns_restoring_credit FOREIGN KEY (restoring_credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    ADD CONSTRAINT payment_returns_restored
        CHECK (status = 'restored' OR restoring_credit_id IS NULL);
UPDATE billing_data.payment_returns AS r
SET amount_minor = CASE WHEN r.away_minor > 0 THEN r.away_minor ELSE r.amount_minor END,
    credit_id = (
        SELECT c.id
        FROM billing_data.payment_return_credits AS n
        INNER JOIN billing_data.credits AS c ON c.id = n.credit_id
        WHERE n.account_id = r.account_id
            AND n.provider = r.provider
            AND n.return_id = r.return_id
            AND c.amount_minor < 0
        ORDER BY c.ledger_version
        LIMIT 1
    ),
    restoring_credit_id = CASE WHEN r.status = 'restored' THEN (
        SELECT c.id
        FROM billing_data.payment_return_credits AS n
        INNER JOIN billing_data.credits AS c ON c.id = n.credit_id
        WHERE n.account_id = r.account_id
            AND n.provider = r.provider
            AND n.return_id = r.return_id
            AND c.amount_minor > 0
        ORDER BY c.ledger_version DESC
        LIMIT 1
    ) END;
