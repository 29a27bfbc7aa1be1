-- Rows of the old service get their place in the ledger: by time, charges and credits in one
-- sequence per account. A charge that left the balance as it was had been a free use. A fresh
-- database has no such rows; a taken-over one has. 'legacy' stands for a writer nobody recorded.
-- depends: 2026_11_22_0011_ledger_columns
SET LOCAL lock_timeout = '5s';

-- Rolled back and applied again, the step meets rows that are append-only by now.
ALTER TABLE billing_data.charges DISABLE TRIGGER USER;
ALTER TABLE billing_data.credits DISABLE TRIGGER USER;

CREATE TEMPORARY TABLE ledger_order ON COMMIT DROP AS
SELECT
    e.kind,
    e.id,
    row_number() OVER (
        PARTITION BY e.account_id ORDER BY e.created_at, e.kind DESC, e.id
    ) AS ledger_version,
    e.account_id
FROM (
    SELECT 'charge' AS kind, c.id, c.account_id, c.created_at FROM billing_data.charges AS c
    UNION ALL
    SELECT 'credit' AS kind, c.id, c.account_id, c.created_at FROM billing_data.credits AS c
) AS e;

UPDATE billing_data.charges AS c
SET ledger_version = o.ledger_version,
    paid_with = CASE WHEN c.balance_after = c.balance_before THEN 'free' ELSE 'paid' END,
    database_role = 'legacy'
FROM ledger_order AS o
WHERE o.kind = 'charge' AND o.id = c.id AND c.ledger_version IS NULL;

UPDATE billing_data.credits AS c
SET ledger_version = o.ledger_version,
    database_role = 'legacy'
FROM ledger_order AS o
WHERE o.kind = 'credit' AND o.id = c.id AND c.ledger_version IS NULL;

UPDATE billing_data.accounts AS a
SET ledger_version = o.rows_written
FROM (
    SELECT l.account_id, count(*) AS rows_written FROM ledger_order AS l GROUP BY l.account_id
) AS o
WHERE o.account_id = a.id;

ALTER TABLE billing_data.charges ENABLE TRIGGER USER;
ALTER TABLE billing_data.credits ENABLE TRIGGER USER;
