-- Erase a person
--
-- The identity is replaced everywhere, free text included; ledger, amounts and seals stay and go on agreeing. First a dry run.
SELECT billing.find_account('chloe@example.com') AS chloe \gset
SELECT table_name, rows_erased, obstacle
FROM billing.erase_personal_data(p_account_id => :'chloe', p_reason => 'asked by letter',
    p_dry_run => true);
SELECT table_name, rows_erased
FROM billing.erase_personal_data(p_account_id => :'chloe', p_reason => 'asked by letter',
    p_force => true);
SELECT paid_credits, status, customer_email
FROM billing.get_account_by_id(p_account_id => :'chloe');
