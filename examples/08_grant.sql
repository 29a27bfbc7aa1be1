-- Give credits
--
-- With an idempotency key, the same call again gives nothing twice. `p_dry_run` tells what would be done.
SELECT amount_minor AS amount, balance_before AS before, balance_after AS after, replayed
FROM billing.adjust_credits(p_account_id => billing.find_account('ada@example.com'),
    p_amount => 20, p_reason => 'goodwill', p_idempotency_key => 'ticket-4711');
SELECT amount_minor AS amount, balance_before AS before, balance_after AS after, replayed
FROM billing.adjust_credits(p_account_id => billing.find_account('ada@example.com'),
    p_amount => 20, p_reason => 'goodwill', p_idempotency_key => 'ticket-4711');
