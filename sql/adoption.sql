-- What was taken over from the old service, for people who ask about it afterwards.

-- What lies before the books begin, which billing.verify_ledger only counts: by reason, how many
-- accounts, their entries of the old service, and what they had when their books were opened.
-- agrees: the entries led to that balance; other_balance: they ended at another one (another unit,
-- or credits given at creation); no_chain: they do not continue each other; no_entries: there were
-- none. reason is NULL for books that were opened otherwise. Errors: actor_required.
-- Example: SELECT * FROM billing.describe_openings();
CREATE OR REPLACE FUNCTION billing.describe_openings()
RETURNS TABLE (
    reason text, accounts bigint, entries numeric, paid_credits numeric, total_uses numeric
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    RETURN QUERY
    SELECT
        o.reason, count(*), sum(o.ledger_version), sum(o.paid_credits), sum(o.total_uses)
    FROM billing_data.ledger_openings AS o
    GROUP BY o.reason
    ORDER BY o.reason;
END
$$;
COMMENT ON FUNCTION billing.describe_openings IS
    'Tells what lies before the books of taken-over accounts begin. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.describe_openings TO billing_dba;
