-- When a person's consent to marketing was withdrawn. Agents send the consent that they know of
-- with every call, so that without this column the next call would give it again.
-- depends: 2026_11_26_0075_refused_charges
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.accounts ADD COLUMN marketing_withdrawn_at timestamptz;
