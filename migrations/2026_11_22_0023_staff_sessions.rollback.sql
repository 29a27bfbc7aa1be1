SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;
DROP TABLE billing_data.sign_in_tickets;
DROP TABLE billing_data.admin_sessions;
