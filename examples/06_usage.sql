-- Usage and money by day
--
-- Rolled up as time passes, so it costs the same with ten rows or ten million.
SELECT day, checks, checks_denied AS denied, charges, free_charges AS free, credits_used AS used,
    credits_added AS added, unique_users AS users
FROM billing.list_daily_figures(p_days => 1);
