-- Who holds an account's lock
--
-- A call locks an account for its own length; a charge that waits for more than two seconds is refused with 503. Here this
-- session holds an account, and another one asks. A member of pg_monitor sees the query of others too.
BEGIN;
SELECT balance_after FROM billing.create_credit(p_oauth_provider => 'oauth:google',
    p_external_id => 'eve', p_amount_minor => 1);
\! psql "$DATABASE_URL" -X -f examples/who_holds.sql -v user=eve
ROLLBACK;
