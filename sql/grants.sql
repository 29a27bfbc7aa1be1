-- Access to the schemas and tables. Functions and views are granted where they are defined. Only
-- the DBAs may use the tables, and only to read them.
GRANT USAGE ON SCHEMA billing TO billing_server, billing_dba, billing_analyst;
REVOKE ALL ON SCHEMA billing, billing_data FROM PUBLIC;
GRANT USAGE ON SCHEMA billing_data TO billing_dba;
GRANT SELECT ON ALL TABLES IN SCHEMA billing_data TO billing_dba;
-- This covers future monthly partitions of the check audit too.
ALTER DEFAULT PRIVILEGES FOR ROLE billing_owner IN SCHEMA billing_data
    GRANT SELECT ON TABLES TO billing_dba;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA billing_data FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA billing FROM PUBLIC;

-- An owner may call every function as a DBA does; the call is recorded under the owner's own login.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA billing TO billing_dba;
-- Functions for the web tier alone: signing in and out, reading whose a session is, recording when
-- a key was used, delivering alerts, and having saved cards charged. What they write is recorded as
-- done by somebody else. This is the only list of them.
REVOKE EXECUTE ON FUNCTION
    billing.create_sign_in_ticket, billing.use_sign_in_ticket, billing.sign_in_admin,
    billing.use_sign_in_link, billing.get_session, billing.end_session,
    billing.record_api_key_use, billing.retire_expired_api_key,
    billing.claim_deliveries, billing.note_delivery, billing.announce_expiring_credits,
    billing.claim_top_ups, billing.note_top_up
FROM billing_dba;
