-- The proof of the books: do the ledger and everything that follows from it agree? No row means
-- yes.

-- What is wrong with everything that the proof of the books relies on beside the rows: the triggers
-- that guard history, the constraints, the unique indexes, foreign keys that are switched off, and
-- rewrite rules that write something other than what was asked. Reads the catalogue only.
CREATE OR REPLACE FUNCTION billing_data.find_guard_faults()
RETURNS TABLE (problem text, expected text, found text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        format('trigger %s of %s does not guard it', g.trigger_name, g.table_name),
        g.definition, g.fault
    FROM billing_data.list_guards() AS g
    WHERE g.fault IS NOT NULL
    UNION ALL
    SELECT
        format('constraint %s of %s is not in force', w.constraint_name, w.table_name),
        'valid', coalesce(s.fault, 'missing')
    FROM (
        VALUES
        ('account_merges', 'account_merges_another'),
        ('account_merges', 'account_merges_moved'),
        ('account_merges', 'account_merges_undone'),
        ('accounts', 'accounts_held'),
        ('accounts', 'accounts_identity'),
        ('accounts', 'accounts_pkey'),
        ('accounts', 'ck_free_uses_non_negative'),
        ('accounts', 'ck_paid_credits_non_negative'),
        ('charges', 'charges_balance_chain'),
        ('charges', 'charges_balance_non_negative'),
        ('charges', 'charges_ledger_version_positive'),
        ('charges', 'charges_one_writer'),
        ('charges', 'charges_paid_with'),
        ('charges', 'charges_pkey'),
        ('charges', 'ck_charge_amount_positive'),
        ('charges', 'fk_charges_account'),
        ('credits', 'ck_credit_balance_consistency'),
        ('credits', 'credits_amount'),
        ('credits', 'credits_balance_after_non_negative'),
        ('credits', 'credits_balance_non_negative'),
        ('credits', 'credits_corrected_charge'),
        ('credits', 'credits_corrected_credit'),
        ('credits', 'credits_corrects_charge'),
        ('credits', 'credits_corrects_credit'),
        ('credits', 'credits_free_uses'),
        ('credits', 'credits_ledger_version_positive'),
        ('credits', 'credits_one_writer'),
        ('credits', 'credits_pkey'),
        ('credits', 'credits_transfer'),
        ('credits', 'fk_credits_account'),
        ('holds', 'holds_account'),
        ('holds', 'holds_amount'),
        ('holds', 'holds_captured'),
        ('holds', 'holds_charge'),
        ('holds', 'holds_pkey'),
        ('holds', 'holds_settled'),
        ('holds', 'holds_state'),
        ('hold_lots', 'hold_lots_pkey'),
        ('ledger_openings', 'ledger_openings_account'),
        ('ledger_openings', 'ledger_openings_of_nothing'),
        ('ledger_openings', 'ledger_openings_pkey'),
        ('lot_allocations', 'lot_allocations_lot'),
        ('lot_allocations', 'lot_allocations_pkey'),
        ('lots', 'lots_account'),
        ('lots', 'lots_credit'),
        ('lots', 'lots_left'),
        ('lots', 'lots_pkey'),
        ('merge_ranks', 'merge_ranks_pkey'),
        ('merge_ranks', 'merge_ranks_rank'),
        ('merged_accounts', 'merged_accounts_account'),
        ('merged_accounts', 'merged_accounts_account_rank'),
        ('merged_accounts', 'merged_accounts_pkey'),
        ('merged_accounts', 'merged_accounts_rank'),
        ('merged_accounts', 'merged_accounts_upwards'),
        ('payment_effects', 'payment_effects_credit'),
        ('payment_effects', 'payment_effects_credit_once'),
        ('payment_effects', 'payment_effects_pkey'),
        ('payment_return_credits', 'payment_return_credits_credit'),
        ('payment_return_credits', 'payment_return_credits_once'),
        ('payment_return_credits', 'payment_return_credits_return'),
        ('payment_returns', 'payment_returns_away'),
        ('payment_returns', 'payment_returns_nothing_away'),
        ('payment_returns', 'payment_returns_pkey'),
        ('payment_returns', 'payment_returns_purchase'),
        ('purchases', 'purchases_account'),
        ('purchases', 'purchases_credit'),
        ('purchases', 'purchases_credit_once'),
        ('purchases', 'purchases_pkey'),
        ('purchases', 'purchases_settled'),
        ('reversed_entries', 'reversed_entries_at_most_all'),
        ('reversed_entries', 'reversed_entries_pkey'),
        ('scheduled_grants', 'scheduled_grants_credit_once'),
        ('scheduled_grants', 'scheduled_grants_pkey')
    ) AS w (table_name, constraint_name)
    LEFT JOIN LATERAL (
        SELECT
            CASE
                WHEN NOT c.convalidated THEN 'not valid'
                -- PostgreSQL 18 can leave a constraint unenforced; older versions do not have this
                -- column.
                WHEN to_jsonb(c) ->> 'conenforced' = 'false' THEN 'not enforced'
            END AS fault,
            true AS is_there
        FROM pg_constraint AS c
        WHERE c.conrelid = to_regclass('billing_data.' || w.table_name)
            AND c.conname = w.constraint_name
    ) AS s ON true
    WHERE s.is_there IS NOT TRUE OR s.fault IS NOT NULL
    UNION ALL
    SELECT
        format('unique index %s is not in force', w.index_name), 'valid',
        CASE WHEN i.indexrelid IS NULL THEN 'missing' ELSE 'not valid' END
    FROM (
        VALUES
        ('account_merges_in_force'), ('charges_idempotency'), ('charges_ledger_version'),
        ('credits_idempotency'),
        ('credits_ledger_version'), ('holds_charge_once'), ('holds_idempotency'),
        ('purchases_idempotency'), ('purchases_payment_id')
    ) AS w (index_name)
    LEFT JOIN pg_index AS i ON i.indexrelid = to_regclass('billing_data.' || w.index_name)
    WHERE (i.indisunique AND i.indisvalid AND i.indisready) IS NOT TRUE
    UNION ALL
    SELECT
        format('constraint %s of %s is not in force', c.conname, r.relname), 'enforced',
        'its triggers are disabled'
    FROM pg_trigger AS t
    INNER JOIN pg_class AS r ON r.oid = t.tgrelid
    INNER JOIN pg_constraint AS c ON c.oid = t.tgconstraint
    WHERE t.tgisinternal
        AND t.tgenabled NOT IN ('O', 'A')
        AND r.relnamespace = 'billing_data'::regnamespace
    GROUP BY c.conname, r.relname
    UNION ALL
    SELECT
        format('rule %s of %s changes what is written', u.rulename, r.relname), 'no rule',
        pg_get_ruledef(u.oid)
    FROM pg_rewrite AS u
    INNER JOIN pg_class AS r ON r.oid = u.ev_class
    WHERE r.relnamespace = 'billing_data'::regnamespace AND r.relkind IN ('r', 'p');
$$;
COMMENT ON FUNCTION billing_data.find_guard_faults IS
    'Finds triggers, constraints and indexes of the books that are not in force. Helper.';

-- Everything in the books that does not agree, with the account it is about (NULL where it is about
-- the database itself). Each entry is compared with the one before and with the digest it was
-- written with. Each account is compared with its entries: versions, paid credits, total uses, and
-- free uses (those it was opened with and those staff gave, less those used). Each purchase and
-- return of money is compared with its credits and the other way round, and each reversal with
-- what it corrects. Everything that belongs to an account must have one, and everything that guards
-- the books must be in force. Entries up to billing_data.ledger_openings are of the old service and
-- in another unit: they are only counted, and must look like the old service's.
-- What is sealed is compared with the entries, and the heads of the days with the seals
-- (seals.sql). It looks at one account (p_account_id), at the accounts whose ids follow p_after up
-- to p_through, or at all of them. What belongs to no account is looked at where p_after and
-- p_account_id are NULL. billing.continue_verification goes through all ranges, and can be stopped.
-- Reads everything once, as of one moment: this takes seconds for a million entries and minutes on
-- a large database.
-- Errors: actor_required.
-- Example: SELECT * FROM billing.verify_ledger();
CREATE OR REPLACE FUNCTION billing.verify_ledger(
    p_account_id uuid DEFAULT NULL,
    p_after uuid DEFAULT NULL,
    p_through uuid DEFAULT NULL
)
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET work_mem = '128MB'
SET plan_cache_mode = 'force_custom_plan'
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    IF p_account_id IS NULL AND p_after IS NULL THEN
        RETURN QUERY
        SELECT NULL::uuid, g.problem, g.expected, g.found
        FROM billing_data.find_guard_faults() AS g;
        RETURN QUERY
        SELECT NULL::uuid, h.problem, h.expected, h.found
        FROM billing_data.find_head_faults() AS h;
        -- Everything else reads entries by an index that has no such rows.
        RETURN QUERY
        SELECT c.account_id, 'an entry has no version', 'more than 0', c.ledger_version::text
        FROM billing_data.charges AS c
        WHERE (c.ledger_version > 0) IS NOT TRUE
        UNION ALL
        SELECT c.account_id, 'an entry has no version', 'more than 0', c.ledger_version::text
        FROM billing_data.credits AS c
        WHERE (c.ledger_version > 0) IS NOT TRUE;
    END IF;
    RETURN QUERY
    SELECT s.account_id, s.problem, s.expected, s.found
    FROM billing_data.find_seal_faults(p_account_id, p_after, p_through) AS s
    UNION ALL
    SELECT h.account_id, h.problem, h.expected, h.found
    FROM billing_data.find_hold_faults(p_account_id, p_after, p_through) AS h
    UNION ALL
    SELECT l.account_id, l.problem, l.expected, l.found
    FROM billing_data.find_lot_faults(p_account_id, p_after, p_through) AS l
    UNION ALL
    SELECT g.account_id, g.problem, g.expected, g.found
    FROM billing_data.find_schedule_faults(p_account_id, p_after, p_through) AS g
    UNION ALL
    SELECT e.account_id, e.problem, e.expected, e.found
    FROM billing_data.find_entry_faults(p_account_id, p_after, p_through) AS e
    UNION ALL
    SELECT a.account_id, a.problem, a.expected, a.found
    FROM billing_data.find_account_faults(p_account_id, p_after, p_through) AS a
    UNION ALL
    SELECT p.account_id, p.problem, p.expected, p.found
    FROM billing_data.find_purchase_faults(p_account_id, p_after, p_through) AS p;
    RETURN QUERY
    SELECT f.account_id, f.problem, f.expected, f.found
    FROM (
        SELECT * FROM billing_data.find_reversal_faults()
        UNION ALL
        SELECT * FROM billing_data.find_transfer_faults()
    ) AS f
    WHERE billing_data.is_in_range(f.account_id, p_account_id, p_after, p_through);
END
$$;
COMMENT ON FUNCTION billing.verify_ledger IS
    'Lists everything in the books that does not agree, and what guards them and is not in force. '
    'For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.verify_ledger TO billing_dba;

-- What an alarm watches, at low cost: the accounts of the newest p_entries charges, of as many
-- credits, and those of p_known (found wrong before, so that an alarm ends when the books are
-- mended and not when the entries are no longer the newest). For each account it compares the
-- balance and version with the newest entry, and that entry with the one before and with the digest
-- it was written with. It reads a few rows for each account, whatever the size of the ledger; only
-- verify_ledger tells whether everything agrees. It also returns how many payments a person must
-- look at, and how many guards of the books are not in force. No actor is needed: the web tier
-- calls it by itself. Errors: invalid_argument.
-- Example: SELECT * FROM billing.watch_books();
CREATE OR REPLACE FUNCTION billing.watch_books(
    p_known uuid[] DEFAULT '{}', p_entries bigint DEFAULT 500
)
RETURNS TABLE (
    accounts_checked bigint, mismatched uuid[], payment_problems bigint, guard_faults bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Ids of the old service do not contain times; most are greater than this.
    v_end uuid := billing_data.first_id(clock_timestamp() + interval '1 day');
BEGIN
    PERFORM billing_data.require(
        p_entries BETWEEN 0 AND 10000, 'p_entries', 'it must be 0 to 10000'
    );
    PERFORM billing_data.require_list(array_dims(p_known), cardinality(p_known), 'p_known');
    RETURN QUERY
    WITH watched AS (
        SELECT n.account_id
        FROM (
            SELECT c.account_id FROM billing_data.charges AS c
            WHERE c.id <= v_end ORDER BY c.id DESC LIMIT p_entries
        ) AS n
        UNION
        SELECT n.account_id
        FROM (
            SELECT c.account_id FROM billing_data.credits AS c
            WHERE c.id <= v_end ORDER BY c.id DESC LIMIT p_entries
        ) AS n
        UNION
        SELECT k.account_id FROM unnest(p_known) AS k (account_id)
    ),
    tails AS (
        SELECT
            a.id, a.ledger_version, a.paid_credits,
            coalesce(o.ledger_version, 0) AS opened_at,
            coalesce(o.paid_credits, 0) AS opened_with,
            array_agg(t.ledger_version ORDER BY t.ledger_version DESC) AS versions,
            array_agg(t.balance_before ORDER BY t.ledger_version DESC) AS before,
            array_agg(t.balance_after ORDER BY t.ledger_version DESC) AS after,
            bool_or(t.is_changed) AS is_changed
        FROM watched AS w
        INNER JOIN billing_data.accounts AS a ON a.id = w.account_id
        LEFT JOIN billing_data.ledger_openings AS o ON o.account_id = a.id
        LEFT JOIN LATERAL (
            SELECT u.ledger_version, u.balance_before, u.balance_after, u.is_changed
            FROM (
                (
                    SELECT
                        c.ledger_version, c.balance_before, c.balance_after,
                        c.digest <> billing_data.charge_digest(c) AS is_changed
                    FROM billing_data.charges AS c
                    WHERE c.account_id = a.id AND c.ledger_version > 0
                    ORDER BY c.ledger_version DESC
                    LIMIT 2
                )
                UNION ALL
                (
                    SELECT
                        c.ledger_version, c.balance_before, c.balance_after,
                        c.digest <> billing_data.credit_digest(c)
                    FROM billing_data.credits AS c
                    WHERE c.account_id = a.id AND c.ledger_version > 0
                    ORDER BY c.ledger_version DESC
                    LIMIT 2
                )
            ) AS u
            ORDER BY u.ledger_version DESC
            LIMIT 2
        ) AS t ON true
        GROUP BY a.id, a.ledger_version, a.paid_credits, o.ledger_version, o.paid_credits
    ),
    judged AS (
        SELECT
            t.id,
            t.ledger_version <> coalesce(t.versions[1], 0)
            OR t.versions[1] <> coalesce(t.versions[2], 0) + 1
            OR t.is_changed
            OR t.paid_credits <> CASE
                WHEN coalesce(t.versions[1], 0) > t.opened_at THEN t.after[1] ELSE t.opened_with
            END
            OR (
                t.versions[1] > t.opened_at
                AND t.before[1] <> CASE
                    WHEN coalesce(t.versions[2], 0) > t.opened_at THEN t.after[2]
                    ELSE t.opened_with
                END
            ) AS is_wrong
        FROM tails AS t
    )
    SELECT
        count(*),
        coalesce(array_agg(j.id ORDER BY j.id) FILTER (WHERE j.is_wrong IS TRUE), '{}'),
        (SELECT count(*) FROM billing_data.find_payment_problems()),
        (SELECT count(*) FROM billing_data.find_guard_faults())
    FROM judged AS j;
END
$$;
COMMENT ON FUNCTION billing.watch_books IS
    'Compares the newest entries with their accounts and counts open payment problems, for alarms. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.watch_books TO billing_server, billing_dba;
