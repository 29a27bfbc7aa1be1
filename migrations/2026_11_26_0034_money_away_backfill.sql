-- What is away of the returns that are known, as of the newest event about each, and the entries
-- they made. Those that a rollback had no column for are told by their keys.
-- depends: 2026_11_26_0033_money_away
SET LOCAL lock_timeout = '1s';

UPDATE billing_data.payment_returns AS r
SET away_minor = CASE WHEN r.status = 'restored' THEN 0 ELSE r.amount_minor END,
    state = CASE WHEN r.status = 'restored' THEN 'closed' ELSE 'open' END,
    as_of = r.created_at;
UPDATE billing_data.payment_returns AS r
SET as_of = to_timestamp(n.created)
FROM (
    SELECT
        e.provider, e.payload #>> '{data,object,id}' AS return_id,
        max((e.payload ->> 'created')::double precision) AS created
    FROM billing_data.payment_events AS e
    WHERE e.outcome IN ('taken_back', 'restored', 'waiting', 'unchanged')
        AND e.payload ->> 'created' ~ '^[0-9]{1,10}$'
    GROUP BY 1, 2
) AS n
WHERE n.provider = r.provider AND n.return_id = r.return_id;

INSERT INTO billing_data.payment_return_credits (account_id, provider, return_id, credit_id)
SELECT r.account_id, r.provider, r.return_id, c.id
FROM billing_data.payment_returns AS r
INNER JOIN billing_data.credits AS c ON c.account_id = r.account_id
WHERE c.id IN (r.credit_id, r.restoring_credit_id)
    OR (
        c.external_transaction_id = r.return_id
        AND c.transaction_type IN ('refund', 'adjustment')
        AND num_nonnulls(c.payment_provider, c.database_role) = 1
        AND starts_with(c.idempotency_key, r.provider || '-' || r.return_id)
        AND substr(c.idempotency_key, length(r.provider || '-' || r.return_id) + 1)
            ~ '^(-restored)?(-[0-9]+)?$'
    )
ON CONFLICT DO NOTHING;

ALTER TABLE billing_data.payment_returns
    DROP COLUMN credit_id,
    DROP COLUMN restoring_credit_id,
    ALTER COLUMN away_minor DROP DEFAULT,
    ALTER COLUMN state DROP DEFAULT,
    ALTER COLUMN as_of DROP DEFAULT,
    ADD CONSTRAINT payment_returns_away CHECK (away_minor BETWEEN 0 AND amount_minor),
    ADD CONSTRAINT payment_returns_nothing_away CHECK ((status = 'restored') = (away_minor = 0)),
    ADD CONSTRAINT payment_returns_state CHECK (state IN ('inquiry', 'open', 'closed')),
    ADD CONSTRAINT payment_returns_transactions CHECK (transactions >= 0);
