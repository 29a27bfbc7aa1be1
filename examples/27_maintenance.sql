-- Partitions, retention and maintenance
--
-- One call a day, by cron (`ciris-billing maintenance`) or by pg_cron, does the regular work. A step that fails undoes no other, and a
-- second call at the same time does nothing.
SELECT step, outcome, detail FROM billing.maintenance(p_keep => '13 months')
\gx (format=wrapped columns=100)
SELECT changes -> 0 ->> 'outcome' AS first_step, who
FROM billing.list_audit_log(p_action => 'maintenance.run', p_limit => 1);
