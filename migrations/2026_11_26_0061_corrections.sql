-- A ledger row can say what it corrects: the charge or the credit that it reverses, or the transfer
-- that it is one side of. It can give back free uses, or take them. How much of an entry has been
-- reversed is counted in a table, whose constraint keeps the count within the entry's amount. The
-- rows that are there satisfy the new checks; the next step reads them all.
-- depends: 2026_11_26_0060_adoption
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.credits
    ADD COLUMN corrects_charge_id uuid,
    ADD COLUMN corrects_credit_id uuid,
    ADD COLUMN transfer_id uuid,
    ADD COLUMN free_uses bigint,
    DROP CONSTRAINT credits_amount,
    ADD CONSTRAINT credits_amount CHECK (
        amount_minor > 0
        OR (
            transaction_type IN ('refund', 'adjustment')
            AND (amount_minor < 0 OR free_uses IS NOT NULL)
        )
    ) NOT VALID,
    ADD CONSTRAINT credits_free_uses CHECK (
        free_uses IS NULL
        OR (free_uses <> 0 AND num_nonnulls(corrects_charge_id, transfer_id) > 0)
    ) NOT VALID,
    -- A paid charge gets credits back, and a free use is given back whole.
    ADD CONSTRAINT credits_corrects_charge CHECK (
        corrects_charge_id IS NULL
        OR (
            transaction_type = 'refund'
            AND amount_minor >= 0
            AND free_uses IS NOT DISTINCT FROM CASE WHEN amount_minor = 0 THEN 1 END
            AND num_nonnulls(corrects_credit_id, transfer_id) = 0
        )
    ) NOT VALID,
    ADD CONSTRAINT credits_corrects_credit CHECK (
        corrects_credit_id IS NULL
        OR (transaction_type = 'adjustment' AND corrects_credit_id <> id)
    ) NOT VALID,
    ADD CONSTRAINT credits_transfer CHECK (
        transfer_id IS NULL OR transaction_type = 'adjustment'
    ) NOT VALID,
    ADD CONSTRAINT credits_corrected_charge FOREIGN KEY (corrects_charge_id)
        REFERENCES billing_data.charges (id) ON DELETE RESTRICT NOT VALID,
    ADD CONSTRAINT credits_corrected_credit FOREIGN KEY (corrects_credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT NOT VALID;
COMMENT ON COLUMN billing_data.credits.corrects_charge_id IS
    'The charge that this row gives back, whole or in part.';
COMMENT ON COLUMN billing_data.credits.corrects_credit_id IS
    'The credit that this row reverses, whole or in part.';
COMMENT ON COLUMN billing_data.credits.transfer_id IS
    'The transfer that this row is one side of; the other row has the same.';
COMMENT ON COLUMN billing_data.credits.free_uses IS
    'Free uses that this row gives back (positive) or takes (negative); NULL for none.';

CREATE TABLE billing_data.reversed_entries (
    entry_id uuid NOT NULL,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    reversed_minor bigint NOT NULL,
    CONSTRAINT reversed_entries_pkey PRIMARY KEY (entry_id),
    CONSTRAINT reversed_entries_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT reversed_entries_at_most_all
        CHECK (reversed_minor > 0 AND reversed_minor <= amount_minor)
);
ALTER TABLE billing_data.reversed_entries OWNER TO billing_owner;
COMMENT ON TABLE billing_data.reversed_entries IS
    'How much of a charge or credit has been reversed: never more than its amount.';
