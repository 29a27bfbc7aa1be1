-- Why something was refused: the denied checks and refused charges of an account, told in words.

-- A moment as people read it.
CREATE OR REPLACE FUNCTION billing_data.moment_text(p_at timestamptz) RETURNS text
LANGUAGE sql STABLE
RETURN to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC';
COMMENT ON FUNCTION billing_data.moment_text IS 'A moment in words, in UTC. Helper.';

-- A number of things in words. p_one is the name of one of them.
CREATE OR REPLACE FUNCTION billing_data.count_text(p_count bigint, p_one text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE p_count
    WHEN 0 THEN 'no ' || p_one || 's'
    ELSE p_count || ' ' || p_one || CASE p_count WHEN 1 THEN '' ELSE 's' END
END;
COMMENT ON FUNCTION billing_data.count_text IS 'A number of things in words. Helper.';

-- The newest denied check of an account at or before a time, or the newest refused charge; an empty
-- row when there is none. Of checks it looks at the newest 10,000 before the time, so that an
-- account that is checked all the time and never denied is answered at once.
CREATE OR REPLACE FUNCTION billing_data.find_denial(p_account_id uuid, p_at timestamptz)
RETURNS TABLE (
    kind text,
    denied_at timestamptz,
    reason text,
    refusals bigint,
    api_key_id uuid,
    database_role text,
    agent_id text,
    channel_id text,
    request_id text,
    amount_minor bigint,
    currency text,
    paid_credits bigint,
    free_uses bigint,
    account_currency text,
    cap jsonb
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.*
    FROM (
        (
            SELECT
                'charge' AS kind,
                CASE WHEN r.last_at <= p_at THEN r.last_at ELSE r.first_at END AS denied_at,
                r.reason, r.refusals, r.api_key_id, r.database_role, r.agent_id::text,
                r.channel_id::text, r.request_id::text, r.amount_minor, r.currency::text,
                r.paid_credits, r.free_uses_remaining, r.account_currency::text, r.cap
            FROM billing_data.refused_charges AS r
            WHERE r.account_id = p_account_id AND r.minute <= p_at AND r.first_at <= p_at
            ORDER BY r.minute DESC, 2 DESC, r.reason
            LIMIT 1
        )
        UNION ALL
        (
            SELECT
                'check', k.created_at,
                CASE k.denial_reason
                    WHEN billing_data.denial_reason('suspended', 0, 0) THEN 'account_suspended'
                    WHEN billing_data.denial_reason('closed', 0, 0) THEN 'account_closed'
                    WHEN billing_data.denial_reason('active', 0, 0) THEN 'insufficient_credits'
                    ELSE k.denial_reason
                END,
                1, k.api_key_id, k.database_role, k.context_agent_id::text,
                k.context_channel_id::text, k.context_request_id::text, NULL, NULL,
                k.credits_remaining, k.free_uses_remaining, NULL, NULL
            FROM (
                SELECT c.*
                FROM billing_data.credit_checks AS c
                WHERE c.account_id = p_account_id AND c.created_at <= p_at
                ORDER BY c.created_at DESC
                LIMIT 10000
            ) AS k
            WHERE NOT k.has_credit
            ORDER BY k.created_at DESC, k.id DESC
            LIMIT 1
        )
    ) AS d
    ORDER BY d.denied_at DESC, d.kind
    LIMIT 1
$$;
COMMENT ON FUNCTION billing_data.find_denial IS
    'The newest denied check or refused charge of an account up to a time. Helper.';

-- A cap that refused a charge, in words.
CREATE OR REPLACE FUNCTION billing_data.cap_text(p_refusal jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN format(
    'the cap per %s for %s was reached: %s of %s credits were used until it freed at %s',
    p_refusal ->> 'period', p_refusal ->> 'capped',
    p_refusal ->> 'used', p_refusal ->> 'limit', p_refusal ->> 'resets_at'
);
COMMENT ON FUNCTION billing_data.cap_text IS 'A cap that refused a charge, in words. Helper.';

-- Why an account was refused something: the denied check or refused charge that is nearest to p_at
-- (NULL: now) and not after it, as columns and as a sentence. It says what was asked, by which API
-- key or database role, what the account had then, what would have been enough, and what to do now.
-- All refusals of an account, key and reason within a minute are one refusal here (refusals is how
-- many), with the amounts of the last of them. Refusals of accounts that are merged into this one
-- count, too. Where nothing was refused, the one row has only a sentence. A charge that a DBA makes
-- with billing.create_charge raises its refusal as an error, and an error leaves no row, so it is
-- not found here. Refused charges over HTTP, and all others that go through billing.charge_items,
-- are found.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT x.sentence, x.what_helps
--     FROM billing.explain_denial(p_account_id => '...', p_at => now()) AS x;
CREATE OR REPLACE FUNCTION billing.explain_denial(
    p_account_id uuid,
    p_at timestamptz DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    sentence text,
    what_helps text,
    kind text,
    denied_at timestamptz,
    reason text,
    refusals bigint,
    would_pass_now boolean,
    api_key_name text,
    api_key_prefix text,
    database_role text,
    agent_id text,
    channel_id text,
    request_id text,
    amount_minor bigint,
    currency text,
    paid_credits_then bigint,
    free_uses_then bigint,
    paid_credits_now bigint,
    free_uses_now bigint,
    status_now text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_at timestamptz := coalesce(p_at, clock_timestamp());
    v_account billing_data.accounts;
    v_denial record;
    v_who text;
    v_had text;
    v_missing bigint;
    v_cap_now jsonb;  -- the cap that would refuse the charge now
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_moment(p_at, 'p_at');
    SELECT a.* INTO v_account
    FROM billing_data.accounts AS a
    WHERE a.id = billing_data.surviving_account(p_account_id);
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    SELECT s.paid_credits, s.held, s.held_free_uses
    INTO STRICT v_account.paid_credits, v_account.held_credits, v_account.held_free_uses
    FROM billing_data.standing(v_account) AS s;
    SELECT d.*, k.name, k.key_prefix INTO v_denial
    FROM unnest(billing_data.accounts_of_person(v_account.id)) AS i (id)
    CROSS JOIN LATERAL billing_data.find_denial(i.id, v_at) AS d
    LEFT JOIN billing_data.api_keys AS k ON k.id = d.api_key_id
    ORDER BY d.denied_at DESC, d.kind, i.id
    LIMIT 1;
    paid_credits_now := v_account.paid_credits - v_account.held_credits;
    free_uses_now := v_account.free_uses_remaining - v_account.held_free_uses;
    status_now := v_account.status;
    IF v_denial.kind IS NULL THEN
        sentence := format(
            'Nothing that was refused to this account up to %s is on record.',
            billing_data.moment_text(v_at)
        );
        RETURN NEXT;
        RETURN;
    END IF;

    kind := v_denial.kind;
    denied_at := v_denial.denied_at;
    reason := v_denial.reason;
    refusals := v_denial.refusals;
    api_key_name := v_denial.name;
    api_key_prefix := v_denial.key_prefix;
    database_role := v_denial.database_role;
    agent_id := v_denial.agent_id;
    channel_id := v_denial.channel_id;
    request_id := v_denial.request_id;
    amount_minor := v_denial.amount_minor;
    currency := v_denial.currency;
    paid_credits_then := v_denial.paid_credits;
    free_uses_then := v_denial.free_uses;
    v_missing := CASE kind WHEN 'check' THEN 1 ELSE amount_minor - paid_credits_then END;
    v_who := CASE
        WHEN api_key_name IS NOT NULL
            THEN format('the API key "%s" (%s...)', api_key_name, api_key_prefix)
        WHEN database_role <> 'legacy' THEN format('the database role %s', database_role)
        ELSE 'the old service'
    END;
    v_had := format(
        'the account had %s and %s', billing_data.count_text(free_uses_then, 'free use'),
        billing_data.count_text(paid_credits_then, 'paid credit')
    );
    sentence := format(
        'At %s, %s %s%s', billing_data.moment_text(denied_at), v_who,
        CASE kind
            WHEN 'check' THEN 'asked whether the user may go on'
            ELSE format(
                'wanted to charge %s in %s', billing_data.count_text(amount_minor, 'credit'),
                currency
            )
        END,
        CASE
            WHEN refusals > 1 THEN format(' (the last of %s refusals in that minute)', refusals)
            ELSE ''
        END
    ) || format(
        '. It was refused because %s.',
        CASE reason
            WHEN 'insufficient_credits' THEN v_had
            WHEN 'account_suspended' THEN 'the account was suspended; ' || v_had
            WHEN 'account_closed' THEN 'the account was closed; ' || v_had
            WHEN 'charge_currency_mismatch' THEN format(
                'the account''s currency was %s; %s', v_denial.account_currency, v_had
            )
            WHEN 'account_cap_reached' THEN billing_data.cap_text(v_denial.cap)
            WHEN 'cap_reached' THEN billing_data.cap_text(v_denial.cap)
            ELSE format('the old service said "%s"', reason)
        END
    );
    IF reason = 'insufficient_credits' THEN
        sentence := sentence || format(
            ' One free use or %s more would have been enough.',
            billing_data.count_text(v_missing, 'paid credit')
        );
    END IF;
    IF kind = 'charge' THEN
        v_cap_now := billing_data.cap_that_refuses(
            v_account.id, v_denial.api_key_id, agent_id, amount_minor, billing_data.clock()
        );
    END IF;
    would_pass_now := CASE kind
        WHEN 'check' THEN billing_data.denial_reason(
            v_account.status, free_uses_now, paid_credits_now
        ) IS NULL
        ELSE billing_data.charge_verdict(
            v_account.status, v_account.currency, currency, free_uses_now, paid_credits_now,
            amount_minor, billing_data.cap_slug(v_cap_now)
        ) = 'created'
    END;
    what_helps := CASE
        WHEN would_pass_now
            THEN 'Nothing needs to be done: the same request would be accepted now.'
        WHEN v_account.status <> 'active' THEN format(
            'The account is %s. Make it active again if its owner may go on.', v_account.status
        )
        WHEN reason = 'charge_currency_mismatch' AND v_account.currency <> currency THEN format(
            'The agent must charge in %s, the account''s currency.', v_account.currency
        )
        WHEN free_uses_now > 0 OR paid_credits_now >= amount_minor THEN format(
            'The cap per %s for %s frees at %s%s. An administrator can raise or delete it.',
            v_cap_now ->> 'period', v_cap_now ->> 'capped', v_cap_now ->> 'resets_at',
            CASE WHEN amount_minor > (v_cap_now ->> 'limit')::bigint
                THEN ', but the charge is more than all of it' ELSE '' END
        )
        ELSE format(
            'Grant at least %s or set free uses anew; or the user buys a pack.',
            billing_data.count_text(
                CASE kind WHEN 'check' THEN 1 ELSE amount_minor - paid_credits_now END, 'credit'
            )
        )
    END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.explain_denial IS
    'Tells why an account was denied, in words, and what helps. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.explain_denial TO billing_server, billing_dba;

-- Retention of refused charges: deletes up to p_rows rows from before p_before, and returns how
-- many it deleted. Call it again until it returns fewer than p_rows.
-- Locks: none that a charge waits for. Writes: admin_audit_logs 1 when it deleted. Errors:
-- actor_required, invalid_argument.
-- Example: SELECT billing.delete_refused_charges(p_before => now() - interval '13 months');
CREATE OR REPLACE FUNCTION billing.delete_refused_charges(
    p_before timestamptz, p_rows bigint DEFAULT 500000
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the time in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_deleted bigint;
BEGIN
    PERFORM billing_data.require_retention(p_before, p_rows);
    DELETE FROM billing_data.refused_charges AS r
    WHERE r.ctid = ANY (ARRAY(
        SELECT n.ctid FROM billing_data.refused_charges AS n
        WHERE n.minute < p_before
        LIMIT p_rows
    ));
    GET DIAGNOSTICS v_deleted = ROW_COUNT;
    IF v_deleted > 0 THEN
        PERFORM billing_data.write_audit(
            'refused_charges.delete', 'refused_charges', NULL,
            jsonb_build_object('before', p_before, 'deleted', v_deleted), NULL, v_actor
        );
    END IF;
    RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION billing.delete_refused_charges IS
    'Deletes records of refused charges from before a time. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.delete_refused_charges TO billing_dba;
