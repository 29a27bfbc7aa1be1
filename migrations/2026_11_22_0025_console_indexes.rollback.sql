SET LOCAL lock_timeout = '5s';

DROP INDEX billing_data.admin_audit_logs_time;
DROP INDEX billing_data.payment_returns_shortfalls;
DROP INDEX billing_data.payment_events_faults;
DROP INDEX billing_data.payment_events_received_at;
DROP INDEX billing_data.purchases_created_at;
DROP INDEX billing_data.accounts_balance_minor;
DROP INDEX billing_data.accounts_not_active;
DROP INDEX billing_data.accounts_external_id;
DROP INDEX billing_data.accounts_customer_email;
DROP INDEX billing_data.accounts_created_at;
