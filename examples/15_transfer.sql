-- Move credits from one account to another
--
-- Two rows with one transfer_id, which together add up to 0.
SELECT account_id AS ben
FROM billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => 'ben') \gset
SELECT account_id AS dan
FROM billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => 'dan') \gset
SELECT * FROM billing.transfer_credits(p_from_account_id => :'ben', p_to_account_id => :'dan',
    p_amount => 5, p_reason => 'bought with the wrong sign-in') \gx
