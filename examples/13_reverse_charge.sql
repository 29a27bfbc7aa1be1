-- Reverse a charge
--
-- What it took goes back to what paid for it, a free use or credits, whole or in part, and never more than the charge.
SELECT transaction_id AS charge
FROM billing.list_transactions(p_oauth_provider => 'oauth:google', p_external_id => 'ada')
WHERE type = 'charge' LIMIT 1 \gset
SELECT * FROM billing.reverse_charge(p_charge_id => :'charge', p_reason => 'the job failed',
    p_dry_run => true) \gx
SELECT balance_after
FROM billing.reverse_charge(p_charge_id => :'charge', p_reason => 'the job failed');
SELECT balance_after
FROM billing.reverse_charge(p_charge_id => :'charge', p_reason => 'the job failed again');
