-- Whose data was erased, and which rows of the audit log took their erased form for it. A payment
-- that arrives for such an account later is a warning of its own.
-- depends: 2026_11_26_0086_seals
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.erased_accounts (
    account_id uuid NOT NULL,
    erased_at timestamptz NOT NULL,
    CONSTRAINT erased_accounts_pkey PRIMARY KEY (account_id),
    CONSTRAINT erased_accounts_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT
);
ALTER TABLE billing_data.erased_accounts OWNER TO billing_owner;
CREATE INDEX erased_accounts_erased_at ON billing_data.erased_accounts (erased_at);

CREATE TABLE billing_data.erased_audit_logs (
    id uuid NOT NULL,
    erased_at timestamptz NOT NULL,
    CONSTRAINT erased_audit_logs_pkey PRIMARY KEY (id)
);
ALTER TABLE billing_data.erased_audit_logs OWNER TO billing_owner;

-- The table has one row for each warning that a person saw: it is small.
ALTER TABLE billing_data.payment_warnings
    DROP CONSTRAINT payment_warnings_kind,
    ADD CONSTRAINT payment_warnings_kind
        CHECK (kind IN ('fraud_warning', 'credited_twice', 'paid_after_erasure'));
