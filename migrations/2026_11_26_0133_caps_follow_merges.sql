-- A cap of an account goes with it when it is merged into another one, and comes back when that is
-- undone: made_for is the account that it was set for.
-- depends: 2026_11_26_0132_audit_reasons
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.caps ADD COLUMN made_for uuid;
UPDATE billing_data.caps AS c SET made_for = c.subject::uuid WHERE c.scope = 'account';
ALTER TABLE billing_data.caps
    ADD CONSTRAINT caps_made_for CHECK ((scope = 'account') = (made_for IS NOT NULL));
