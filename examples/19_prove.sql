-- Prove the books, and check the seals
--
-- No row means that every entry, balance, payment and guard agrees. `ciris-billing verify` does it range by range and can be stopped;
-- `ciris-billing seal export FOLDER` keeps the heads of sealed days elsewhere, `ciris-billing seal check FOLDER` compares with them.
SELECT * FROM billing.verify_ledger();
\! ciris-billing verify 2> /dev/null
SELECT sealed_through, entries_sealed, accounts_verified, entries_verified, problems, is_behind
FROM billing.get_proof();
