-- Find an account by part of an e-mail address
--
-- `p_match => 'substring'` looks anywhere in the address; without it the beginning of a word is enough for an index.
SELECT a.account_id, a.external_id, a.customer_email, a.status, a.paid_credits AS paid
FROM billing.list_accounts(p_search => 'loe@exa', p_match => 'substring') AS a;
SELECT billing.find_account('ada@example.com');
SELECT free_uses_remaining AS free, paid_credits AS paid, status, total_uses AS uses
FROM billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => 'ada');
