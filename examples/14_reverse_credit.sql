-- Reverse a credit
--
-- What was given by mistake is taken back, as far as it is not spent yet.
SELECT transaction_id AS credit
FROM billing.list_transactions(p_oauth_provider => 'oauth:google', p_external_id => 'chloe')
WHERE type = 'credit' LIMIT 1 \gset
SELECT balance_after
FROM billing.reverse_credit(p_credit_id => :'credit', p_reason => 'given to the wrong person',
    p_idempotency_key => 'ticket-4712');
SELECT type, amount_minor AS amount, balance_after AS balance, description, corrects_id
FROM billing.list_transactions(p_oauth_provider => 'oauth:google', p_external_id => 'chloe',
    p_limit => 2);
