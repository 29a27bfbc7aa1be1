-- Move credits from one account to another
--
-- Two rows with one transfer_id, which together add up to 0.
SELECT amount_minor AS amount, from_balance_after, to_balance_after, replayed
FROM billing.transfer_credits(p_from_account_id => billing.find_account('ben@example.com'),
    p_to_account_id => billing.find_account('dan@example.com'), p_amount => 5,
    p_reason => 'bought with the wrong sign-in');
