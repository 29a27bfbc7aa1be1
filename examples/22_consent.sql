-- Withdraw a consent
--
-- What agents go on sending does not give it again.
SELECT changed
FROM billing.withdraw_consent(p_account_id => billing.find_account('ada@example.com'),
    p_reason => 'asked by e-mail');
