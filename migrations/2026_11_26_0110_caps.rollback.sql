SET LOCAL lock_timeout = '1s';

DELETE FROM billing_data.refused_charges AS r
WHERE r.reason IN ('account_cap_reached', 'cap_reached');
ALTER TABLE billing_data.refused_charges
    DROP CONSTRAINT refused_charges_cap,
    DROP CONSTRAINT refused_charges_reason,
    ADD CONSTRAINT refused_charges_reason CHECK (
        reason IN (
            'account_closed', 'account_suspended', 'charge_currency_mismatch',
            'insufficient_credits'
        )
    ),
    DROP COLUMN cap;
-- With the helpers that take their rows.
DROP TYPE billing_data.capped_item CASCADE;
DROP TYPE billing_data.cap_request CASCADE;
DROP TABLE billing_data.cap_usage;
DROP TABLE billing_data.caps CASCADE;
