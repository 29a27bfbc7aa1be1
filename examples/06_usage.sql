-- Usage and money by day
--
-- Of all accounts together, or of one. Money that was sold and went back is in the currency's smallest unit.
SELECT day, charges, free_charges AS free, credits_used AS used, credits_added AS added, sold_minor,
    returned_minor
FROM billing.list_usage(p_from => (now() AT TIME ZONE 'UTC')::date,
    p_to => (now() AT TIME ZONE 'UTC')::date + 1);
SELECT day, charges, free_charges AS free, credits_used AS used, credits_added AS added
FROM billing.list_usage(p_from => (now() AT TIME ZONE 'UTC')::date,
    p_to => (now() AT TIME ZONE 'UTC')::date + 1,
    p_account_id => billing.find_account('ada@example.com'));
