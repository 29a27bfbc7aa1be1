-- Reads the refused charges; charges go on meanwhile.
-- depends: 2026_11_26_0110_caps
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.refused_charges VALIDATE CONSTRAINT refused_charges_reason;
ALTER TABLE billing_data.refused_charges VALIDATE CONSTRAINT refused_charges_cap;
