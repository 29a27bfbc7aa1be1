-- The statement of a month
--
-- Opening, every entry and closing; without dates, of this UTC month.
SELECT kind, ledger_version AS no, type, credits_change AS credits, balance_after AS balance,
    free_uses_change AS free, reason, writer
FROM billing.statement(p_account_id => billing.find_account('chloe@example.com'));
