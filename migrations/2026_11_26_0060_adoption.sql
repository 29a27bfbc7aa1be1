-- What a database that was taken over from the old service needs: where accounts of one identity
-- were merged, the ids of those that went lead to the one that stayed; and an opening says why it
-- is there. Books may then begin with a balance or with uses that no entry explains.
-- depends: 2026_11_26_0051_payment_providers_validated
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.merged_accounts (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    CONSTRAINT merged_accounts_pkey PRIMARY KEY (id),
    CONSTRAINT merged_accounts_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT merged_accounts_another CHECK (id <> account_id)
);
ALTER TABLE billing_data.merged_accounts OWNER TO billing_owner;
CREATE INDEX merged_accounts_account_id ON billing_data.merged_accounts (account_id);

ALTER TABLE billing_data.ledger_openings
    ADD COLUMN reason text,
    ADD CONSTRAINT ledger_openings_reason
        CHECK (reason IN ('agrees', 'no_chain', 'no_entries', 'other_balance')),
    DROP CONSTRAINT ledger_openings_of_nothing,
    ADD CONSTRAINT ledger_openings_of_nothing CHECK (
        ledger_version > 0
        OR (paid_credits = 0 AND total_uses = 0)
        OR (reason = 'no_entries') IS TRUE
    );
