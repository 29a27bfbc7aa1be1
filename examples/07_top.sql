-- Who used most in a month
--
-- By uses, or by credits used (`p_sort`); without dates, of this UTC month.
SELECT place, customer_email, charges, free_charges AS free, credits_used AS used
FROM billing.list_top_consumers(p_limit => 3);
