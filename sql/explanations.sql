-- In which state an account is and why, in words. Whoever looks at an account asks this first.

-- Since when an account has its status, by whom and why, from the audit log. Where the audit log
-- does not say so, the one row is empty.
CREATE OR REPLACE FUNCTION billing_data.status_change(
    p_account_id uuid, p_status text, OUT at timestamptz, OUT who text, OUT reason text
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        l.created_at, billing_data.writer_name(NULL, NULL, u.email, NULL, l.database_role), l.reason
    FROM billing_data.admin_audit_logs AS l
    LEFT JOIN billing_data.admin_users AS u ON u.id = l.admin_user_id
    WHERE l.resource_type = 'account' AND l.resource_id = p_account_id::text
        AND l.action = 'account.set_status' AND l.changes ->> 'after' = p_status
    ORDER BY l.created_at DESC, l.id DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION billing_data.status_change IS
    'Since when an account has its status, by whom and why. Helper.';

-- Why an account is as it is, in words: a row for each thing that keeps its user from going on, or
-- that a person must decide, and what to do about it; no row when there is none. kind is, in this
-- order: erased; suspended or closed, with since, who did it and their reason; payment_problem, one
-- row for each open problem; out_of_credits; and denied, the newest refusal up to p_at (NULL: now)
-- as billing.explain_denial tells it, with the agent that asked. is_over is true for a denial of
-- what would be accepted now. credits_needed is how many credits a denied request lacks now.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT x.sentence, x.what_helps
--     FROM billing.explain_account(p_account_id => '...') AS x;
CREATE OR REPLACE FUNCTION billing.explain_account(
    p_account_id uuid,
    p_at timestamptz DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    kind text,
    sentence text,
    what_helps text,
    since timestamptz,
    is_over boolean,
    agent_id text,
    credits_needed bigint,
    payment_id text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_ids uuid[];
    v_now record;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    v_account := billing_data.require_account(p_account_id);
    v_ids := billing_data.merged_family(v_account.id);
    RETURN QUERY
    SELECT
        'erased', format(
            'The data of this account''s person was erased at %s.',
            billing_data.moment_text(e.erased_at)
        ),
        'Nothing needs to be done: the account stays closed.', e.erased_at, true, NULL,
        NULL::bigint, NULL
    FROM billing_data.erased_accounts AS e
    WHERE e.account_id = v_account.id;
    IF NOT FOUND AND v_account.status <> 'active' THEN
        RETURN QUERY
        SELECT
            v_account.status::text,
            CASE
                WHEN c.at IS NULL THEN format(
                    'The account is %s. The audit log does not say since when.', v_account.status
                )
                ELSE format(
                    'The account is %s since %s, by %s: %s', v_account.status,
                    billing_data.moment_text(c.at), c.who, c.reason
                )
            END,
            'Make it active again if its owner may go on.', c.at, false, NULL, NULL::bigint, NULL
        FROM billing_data.status_change(v_account.id, v_account.status) AS c;
    END IF;
    RETURN QUERY
    SELECT
        'payment_problem', format(
            'Payment %s: %s (%s).', coalesce(q.payment_id, q.reference), q.what_is_wrong,
            billing_data.moment_text(q.happened_at)
        ) || CASE WHEN q.place = 10 AND q.problems > 10
            THEN format(' The account has %s more of these problems.', q.problems - 10)
            ELSE '' END,
        'Decide what becomes of it: it is in the list of payment problems.', q.happened_at, false,
        NULL, NULL::bigint, q.payment_id
    FROM (
        SELECT
            f.*, row_number() OVER (ORDER BY f.happened_at DESC, f.reference) AS place,
            count(*) OVER () AS problems
        FROM billing_data.find_payment_problems() AS f
        WHERE f.account_id = ANY (v_ids)
    ) AS q
    WHERE q.place <= 10
    ORDER BY q.place;
    SELECT s.held, s.held_free_uses, s.paid_credits INTO STRICT v_now
    FROM billing_data.standing(v_account) AS s;
    IF v_account.status = 'active'
        AND v_account.free_uses_remaining <= v_now.held_free_uses
        AND v_now.paid_credits <= v_now.held
    THEN
        RETURN QUERY
        SELECT
            'out_of_credits', format(
                'The account is out of credits%s: it has %s and %s%s.',
                ' since ' || billing_data.moment_text(e.created_at),
                billing_data.count_text(v_account.free_uses_remaining, 'free use'),
                billing_data.count_text(v_now.paid_credits, 'paid credit'),
                CASE
                    WHEN v_now.held + v_now.held_free_uses > 0 THEN ', and open holds keep them'
                    ELSE ''
                END
            ),
            'Grant credits or set free uses anew; or the user buys a pack.', e.created_at, false,
            NULL, 1::bigint, NULL
        FROM (VALUES (true)) AS one (row)
        LEFT JOIN billing_data.list_entries(
            v_account.id, v_account.ledger_version - 1, v_account.ledger_version
        ) AS n ON true
        -- What ended and is not booked yet has no entry.
        CROSS JOIN LATERAL (
            SELECT
                CASE
                    WHEN v_account.paid_credits > v_now.paid_credits THEN v_account.due_at
                    ELSE n.created_at
                END AS created_at
        ) AS e;
    END IF;
    RETURN QUERY
    SELECT
        'denied',
        concat(d.sentence, ' The agent was ' || d.agent_id || '.'), d.what_helps, d.denied_at,
        d.would_pass_now, d.agent_id,
        CASE
            WHEN d.would_pass_now OR d.reason <> 'insufficient_credits' THEN NULL
            WHEN d.kind = 'check' THEN 1
            ELSE d.amount_minor - d.paid_credits_now
        END,
        NULL
    FROM billing.explain_denial(p_account_id, p_at, p_session_hash) AS d
    WHERE d.kind IS NOT NULL;
END
$$;
COMMENT ON FUNCTION billing.explain_account IS
    'Tells why an account is as it is, in words, and what helps. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.explain_account TO billing_server, billing_dba;
