-- An account's history, and who wrote a row
--
-- The audit log has everything that staff and DBAs did, by which login and why.
SELECT account_id AS ada
FROM billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => 'ada') \gset
SELECT type, amount_minor AS amount, balance_after AS balance, description, created_at::timestamp(0)
FROM billing.list_transactions(p_oauth_provider => 'oauth:google', p_external_id => 'ada',
    p_limit => 3);
SELECT who, action, reason, changes ->> 'amount' AS amount, created_at::timestamp(0)
FROM billing.list_audit_log(p_resource_id => :'ada');
