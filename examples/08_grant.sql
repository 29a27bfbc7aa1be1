-- Give credits
--
-- With an idempotency key, the same call again gives nothing twice.
SELECT account_id AS ada
FROM billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => 'ada') \gset
SELECT amount_minor AS amount, balance_before AS before, balance_after AS after, replayed
FROM billing.adjust_credits(p_account_id => :'ada', p_amount => 20, p_reason => 'goodwill',
    p_idempotency_key => 'ticket-4711');
SELECT amount_minor AS amount, balance_before AS before, balance_after AS after, replayed
FROM billing.adjust_credits(p_account_id => :'ada', p_amount => 20, p_reason => 'goodwill',
    p_idempotency_key => 'ticket-4711');
