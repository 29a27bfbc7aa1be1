-- An account's history, and who wrote a row
--
-- Every row of the ledger has its writer and reason. The audit log has everything else that staff and DBAs did.
SELECT type, amount_minor AS amount, balance_after AS balance, description, writer,
    created_at::timestamp(0)
FROM billing.list_transactions(p_oauth_provider => 'oauth:google', p_external_id => 'ada',
    p_limit => 3);
SELECT transaction_id AS entry
FROM billing.list_transactions(p_oauth_provider => 'oauth:google', p_external_id => 'ada')
WHERE type = 'credit' LIMIT 1 \gset
SELECT * FROM billing.find_entry(p_transaction_id => :'entry') \gx
SELECT who, action, reason, created_at::timestamp(0)
FROM billing.list_audit_log(p_resource_id => billing.find_account('oauth:google:ada')::text);
