-- Everything that is replaced on every deploy, in load order, and so the map of this folder.
-- `ciris-billing migrate` reads the list; a DBA may run it by hand as a member of billing_owner:
--     psql --single-transaction --file sql/load.sql
-- Schema billing holds what others may call: a file of a noun holds its functions; their helpers,
-- which are in schema billing_data, stand before them. Tables are made by the steps in migrations/.
-- To find a function: grep -n 'FUNCTION billing.NAME' sql/*.sql

-- What everything stands on.
--   the schemas; ids
\ir schema.sql
--   every refusal and its wording; checks of arguments
\ir errors.sql
--   locks by name
\ir locks.sql
--   the longest text of each field
\ir limits.sql
--   whether two requests are the same
\ir fingerprints.sql
--   currencies, their decimals and least amounts
\ir currencies.sql
--   guards of rows that never change; digests of ledger rows
\ir append_only.sql
--   the payment providers there are
\ir payment_providers.sql
--   who calls, and what they may
\ir actors.sql
--   finding what staff type
\ir search.sql
--   the audit log
\ir audit.sql
--   prices and other settings
\ir settings.sql

-- Accounts, keys and staff.
--   accounts and profiles
\ir accounts.sql
--   what other systems are told of accounts
\ir alerts.sql
--   where merged accounts lead
\ir merged_accounts.sql
--   what was taken over from the old service
\ir adoption.sql
--   API keys
\ir api_keys.sql
--   staff and their roles
\ir admin_users.sql
--   sessions, sign-in links, tokens of staff
\ir sign_in.sql

-- The hot path: may this user go on, and this user used one.
--   months of checks
\ir check_partitions.sql
--   the fields of checks, charges and their outcomes
\ir items.sql
--   checks
\ir checks.sql
--   caps on charges
\ir caps.sql
--   charges, and lists of them that take effect once
\ir charges.sql
--   caps as staff set them
\ir cap_settings.sql
--   credits kept for a use whose price is known afterwards
\ir holds.sql
--   caps on holds
\ir hold_caps.sql
--   why a check or charge was refused
\ir denials.sql
--   whether a charge could be written
\ir health.sql
--   who holds an account
\ir holders.sql
--   what servers of the release before call
\ir kept.sql

-- Money.
--   credits
\ir credits.sql
--   credits that end or are of another kind, and what each pays
\ir lots.sql
--   credits that are given at a time, or again and again
\ir schedules.sql
--   credits that move from one account to another
\ir transfers.sql
--   two accounts become one
\ir merges.sql
--   settings of payment providers and their secrets
\ir provider_configs.sql
--   what is sold
\ir purchases.sql
--   one payment, one effect
\ir payment_effects.sql
--   a payment that arrived
\ir payments.sql
--   refunds and disputes
\ir payment_returns.sql
--   events of payment providers
\ir payment_events.sql
--   what a person must decide
\ir payment_problems.sql
--   consents that a saved card buys credits when they run low
\ir top_ups.sql
--   what the servers do for them
\ir top_up_attempts.sql

-- Books, figures and what staff read and correct.
--   an account's history
\ir transactions.sql
--   what can be wrong with the books
\ir book_faults.sql
--   proof of the books: all of these together
\ir ledger.sql
--   what is sealed of an entry, and erasing what is personal in it
\ir leaves.sql
--   entries with their writers; who wrote one
\ir entries.sql
--   a balance at a past time, and statements
\ir statements.sql
--   sealing what was written, by day
\ir seals.sql
--   whether everything is as it was sealed
\ir seal_faults.sql
--   proving the books range by range
\ir verifications.sql
--   views for a DBA
\ir reports.sql
--   in which state an account is, and why
\ir explanations.sql
--   the dashboard's figures
\ir figures.sql
--   usage by day of any period, and who used most
\ir usage.sql
--   what happened to an account, and its figures by day
\ir timeline.sql
--   accounts as staff find and read them
\ir account_lists.sql
--   corrections by staff
\ir adjustments.sql
--   credits for many accounts, from a list
\ir grants_of_credits.sql
--   charges given back and credits taken back
\ir reversals.sql
--   notes of staff
\ir notes.sql
--   payments refunded at their provider
\ir refunds.sql
--   what is stored of a person; consent
\ir personal_data.sql
--   erasing a person
\ir erasure.sql

-- Alerts on their way to other systems.
--   where they are sent
\ir webhook_endpoints.sql
--   what is on its way
\ir outbox.sql

-- For the DBA.
--   what a person types, of every kind
\ir find_anything.sql
--   the regular work as one call
\ir maintenance.sql
--   what a login can do that it should not
\ir doors.sql
--   functions by task, and what arguments mean
\ir topics.sql
--   what the comments in these files say
\ir manual.sql
--   billing.help()
\ir help.sql
--   who may call what
\ir grants.sql
