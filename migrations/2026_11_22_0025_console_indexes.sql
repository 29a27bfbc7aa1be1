-- What staff look things up by. None of it is on a column that a charge changes, so updates stay
-- HOT. Prefixes of e-mail addresses and external ids are found whatever their case.
-- depends: 2026_11_22_0024_usage_figures
SET LOCAL lock_timeout = '5s';

CREATE INDEX accounts_created_at ON billing_data.accounts (created_at, id);
-- Of all rows, those without an address too: so it gives the order by address, and its statistics
-- tell a rare prefix from a common one (the planner ignores those of an index of a part).
CREATE INDEX accounts_customer_email
    ON billing_data.accounts (lower(customer_email) text_pattern_ops, id);
CREATE INDEX accounts_external_id ON billing_data.accounts (lower(external_id) text_pattern_ops);
CREATE INDEX accounts_not_active ON billing_data.accounts (status, created_at, id)
    WHERE status <> 'active';
CREATE INDEX accounts_balance_minor ON billing_data.accounts (balance_minor)
    WHERE balance_minor <> 0;
CREATE INDEX purchases_created_at ON billing_data.purchases (created_at, id);
CREATE INDEX payment_events_received_at ON billing_data.payment_events (received_at, event_id);
CREATE INDEX payment_events_faults ON billing_data.payment_events (received_at)
    WHERE resolved_at IS NULL AND outcome IN (
        'account_not_found', 'amount_mismatch', 'balance_overflow', 'currency_mismatch',
        'metadata_missing', 'mode_mismatch', 'payment_mismatch', 'payment_unknown'
    );
CREATE INDEX payment_returns_shortfalls ON billing_data.payment_returns (updated_at)
    WHERE status = 'taken' AND uses_taken < uses_due;
CREATE INDEX admin_audit_logs_time ON billing_data.admin_audit_logs (created_at, id);
