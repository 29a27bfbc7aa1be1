SET LOCAL lock_timeout = '5s';

-- Only what the step made up, and nothing that money has since gone back on.
DELETE FROM billing_data.purchases AS p
WHERE p.database_role = 'legacy'
    AND p.id = p.credit_id
    AND NOT EXISTS (
        SELECT FROM billing_data.payment_returns AS r
        WHERE r.account_id = p.account_id AND r.purchase_id = p.id
    );
