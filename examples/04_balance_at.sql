-- What somebody had at a moment
--
-- The credits and free uses then, and the entry that left it so.
SELECT max(created_at) AS then
FROM billing.list_transactions(p_oauth_provider => 'oauth:google', p_external_id => 'ada')
WHERE type = 'credit' \gset
SELECT paid_credits, free_uses, ledger_version, type, reason, writer
FROM billing.balance_at(p_account_id => billing.find_account('ada@example.com'),
    p_at => :'then');
