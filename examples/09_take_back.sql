-- Take credits back
--
-- A balance never falls below zero: more than there is, is refused.
SELECT amount_minor AS amount, balance_before AS before, balance_after AS after
FROM billing.adjust_credits(p_account_id => billing.find_account('ada@example.com'),
    p_amount => -4, p_reason => 'given twice');
SELECT balance_after
FROM billing.adjust_credits(p_account_id => billing.find_account('ada@example.com'),
    p_amount => -4000, p_reason => 'a slip');
