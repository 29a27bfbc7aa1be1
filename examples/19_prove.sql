-- Prove the books
--
-- No row means that every entry, balance, payment and guard agrees.
SELECT * FROM billing.verify_ledger();
