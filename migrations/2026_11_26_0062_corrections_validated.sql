-- Validates the checks and references of the step before, which reads the credits and holds up
-- nobody's writes.
-- depends: 2026_11_26_0061_corrections
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.credits
    VALIDATE CONSTRAINT credits_amount,
    VALIDATE CONSTRAINT credits_free_uses,
    VALIDATE CONSTRAINT credits_corrects_charge,
    VALIDATE CONSTRAINT credits_corrects_credit,
    VALIDATE CONSTRAINT credits_transfer,
    VALIDATE CONSTRAINT credits_corrected_charge,
    VALIDATE CONSTRAINT credits_corrected_credit;
