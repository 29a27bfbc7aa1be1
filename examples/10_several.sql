-- Give to several accounts, all or none
--
-- The function locks them in one order, whatever order they are given in.
SELECT array_agg(a.account_id) AS them
FROM billing.list_accounts(p_search => '@example.com', p_match => 'substring') AS a
WHERE a.external_id IN ('ben', 'chloe') \gset
SELECT amount_minor AS amount, balance_after AS after
FROM billing.adjust_credits(p_account_ids => :'them', p_amount => 3,
    p_reason => 'the outage of yesterday', p_idempotency_key => 'outage-1')
ORDER BY balance_after;
