-- Who may enter. Functions and views are granted where they are defined; the tables to nobody but
-- the DBAs, for reading.
GRANT USAGE ON SCHEMA billing TO billing_server, billing_dba, billing_analyst;
REVOKE ALL ON SCHEMA billing, billing_data FROM PUBLIC;
GRANT USAGE ON SCHEMA billing_data TO billing_dba;
GRANT SELECT ON ALL TABLES IN SCHEMA billing_data TO billing_dba;
-- The coming months of the check audit too.
ALTER DEFAULT PRIVILEGES FOR ROLE billing_owner IN SCHEMA billing_data
    GRANT SELECT ON TABLES TO billing_dba;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA billing_data FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA billing FROM PUBLIC;

-- Whoever owns the functions may use them as a DBA does; a call is recorded under their own login.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA billing TO billing_dba;
-- But signing in and out, whose a session is and when a key was used are the web tier's alone: what
-- these write is recorded as the doing of somebody else. The one list of them.
REVOKE EXECUTE ON FUNCTION
    billing.create_sign_in_ticket, billing.use_sign_in_ticket, billing.sign_in_admin,
    billing.use_sign_in_link, billing.get_session, billing.end_session,
    billing.record_api_key_use, billing.retire_expired_api_key
FROM billing_dba;
