-- Words of the reasons in the audit log, for the search of the console. Entries are few and written
-- by people, so the index costs what they do next to nothing.
-- depends: 2026_11_26_0131_figures_of_periods
SET LOCAL lock_timeout = '1s';

CREATE INDEX admin_audit_logs_reason ON billing_data.admin_audit_logs
    USING gin (to_tsvector('simple'::regconfig, reason));
