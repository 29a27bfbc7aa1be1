-- Suspend an account and reopen it
--
-- A suspended account is neither charged nor let on; it can be given credits.
SELECT status FROM billing.set_account_status(p_oauth_provider => 'oauth:google',
    p_external_id => 'ben', p_status => 'suspended', p_reason => 'chargeback');
SELECT charge_id FROM billing.create_charge(p_oauth_provider => 'oauth:google',
    p_external_id => 'ben', p_amount_minor => 1, p_description => 'An answer');
SELECT status FROM billing.set_account_status(p_oauth_provider => 'oauth:google',
    p_external_id => 'ben', p_status => 'active', p_reason => 'chargeback withdrawn');
