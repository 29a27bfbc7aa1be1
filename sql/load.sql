-- Everything that is replaced on every deploy, in load order. `ciris-billing migrate` reads this
-- list; a DBA may run it by hand as a member of billing_owner:
--     psql --single-transaction --file sql/load.sql
\ir schema.sql
\ir errors.sql
\ir locks.sql
\ir limits.sql
\ir currencies.sql
\ir append_only.sql
\ir actors.sql
\ir settings.sql
\ir accounts.sql
\ir api_keys.sql
\ir admin_users.sql
\ir sign_in.sql
\ir check_partitions.sql
\ir checks.sql
\ir charges.sql
\ir health.sql
\ir holders.sql
\ir charge_batches.sql
\ir credits.sql
\ir provider_configs.sql
\ir purchases.sql
\ir payment_effects.sql
\ir payments.sql
\ir payment_returns.sql
\ir payment_events.sql
\ir payment_problems.sql
\ir transactions.sql
\ir ledger.sql
\ir reports.sql
\ir figures.sql
\ir console_accounts.sql
\ir console_lists.sql
\ir doors.sql
\ir help.sql
\ir grants.sql
