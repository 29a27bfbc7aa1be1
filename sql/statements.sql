-- An account's books at a past time: its balance then, and statements of a period.

-- The account with this id, or the one it was merged into. With p_follow false it is always the
-- account with this id. Errors: invalid_argument, account_not_found.
CREATE OR REPLACE FUNCTION billing_data.require_account(
    p_account_id uuid, p_follow boolean DEFAULT true
) RETURNS billing_data.accounts
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
BEGIN
    PERFORM billing_data.require(p_follow IS NOT NULL, 'p_follow', 'it must be true or false');
    SELECT a.* INTO v_account
    FROM billing_data.accounts AS a
    WHERE a.id = CASE
        WHEN p_follow THEN billing_data.surviving_account(p_account_id)
        ELSE p_account_id
    END;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    RETURN v_account;
END
$$;
COMMENT ON FUNCTION billing_data.require_account IS
    'Reads the account with an id, or refuses the call. Helper.';

-- A period: from p_from, by default the beginning of this UTC month, up to and without p_to, by
-- default a month later. Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.period(
    p_from timestamptz, p_to timestamptz, OUT first timestamptz, OUT beyond timestamptz
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    first := coalesce(p_from, date_trunc('month', clock_timestamp(), 'UTC'));
    PERFORM billing_data.require_moment(first, 'p_from');
    beyond := coalesce(p_to, (first AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
    PERFORM billing_data.require_moment(beyond, 'p_to');
    PERFORM billing_data.require(first <= beyond, 'p_to', 'it must not be before p_from');
END
$$;
COMMENT ON FUNCTION billing_data.period IS
    'A period with its defaults, or a refusal. Helper.';

-- What an account had after its entry p_version, the newest before the time p_before. For state see
-- billing.balance_at.
CREATE OR REPLACE FUNCTION billing_data.balance_before(
    p_account billing_data.accounts, p_version bigint, p_before timestamptz
) RETURNS TABLE (state text, paid_credits bigint, free_uses bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        s.state,
        CASE
            WHEN s.state <> 'known' THEN NULL
            WHEN p_version = b.opened_at THEN b.opened_with
            ELSE coalesce(
                (
                    SELECT c.balance_after FROM billing_data.charges AS c
                    WHERE c.account_id = (p_account).id
                        AND c.ledger_version = p_version AND c.ledger_version > 0
                ),
                (
                    SELECT c.balance_after FROM billing_data.credits AS c
                    WHERE c.account_id = (p_account).id
                        AND c.ledger_version = p_version AND c.ledger_version > 0
                )
            )
        END,
        CASE
            WHEN s.state = 'known'
                THEN billing_data.free_uses_at((p_account).id, p_version, p_before)
        END
    FROM (
        SELECT
            coalesce(max(o.ledger_version), 0) AS opened_at,
            coalesce(max(o.paid_credits), 0) AS opened_with
        FROM billing_data.ledger_openings AS o
        WHERE o.account_id = (p_account).id
    ) AS b
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN p_version = 0 AND p_before <= (p_account).created_at THEN 'before_account'
                WHEN p_version < b.opened_at THEN 'before_books'
                ELSE 'known'
            END AS state
    ) AS s
$$;
COMMENT ON FUNCTION billing_data.balance_before IS
    'What an account had at a place in its ledger. Helper.';

-- What a statement says instead of a balance that is not known. p_state is that of
-- billing.balance_at.
CREATE OR REPLACE FUNCTION billing_data.why_no_balance(p_state text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_state
    WHEN 'before_account' THEN 'The account did not exist yet'
    WHEN 'before_books' THEN 'The old service kept this account'
END;
COMMENT ON FUNCTION billing_data.why_no_balance IS
    'Says why a statement cannot tell a balance. Helper.';

-- What an account had at a time: its paid credits and free uses, and the entry that left it so. An
-- entry that was written at exactly this time counts. state is known; before_account, where the
-- account did not exist yet; or before_books, where it was still one of the old service, whose
-- balances were in another unit (in both cases the balances are NULL). Where there was no entry
-- yet, the entry's columns are NULL. A time without a zone is in the session's time zone: write
-- '2026-11-01 00:00Z' for UTC. For an account that was merged the answer is about the account that
-- stayed; with p_follow false it is about the merged account itself.
-- Errors: actor and key errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.balance_at(billing.find_account('oauth:google:1'),
--              '2026-11-01 00:00Z');
CREATE OR REPLACE FUNCTION billing.balance_at(
    p_account_id uuid,
    p_at timestamptz,
    p_session_hash bytea DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_follow boolean DEFAULT true
) RETURNS TABLE (
    account_id uuid,
    at timestamptz,
    state text,
    paid_credits bigint,
    free_uses bigint,
    ledger_version bigint,
    transaction_id uuid,
    type text,
    transaction_type text,
    amount_minor bigint,
    created_at timestamptz,
    reason text,
    writer_kind text,
    writer text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_before timestamptz := p_at + interval '1 microsecond';
    v_version bigint;
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    PERFORM billing_data.require(p_at IS NOT NULL, 'p_at', 'it must be given');
    PERFORM billing_data.require_moment(p_at, 'p_at');
    v_account := billing_data.require_account(p_account_id, p_follow);
    v_version := billing_data.version_before(v_account.id, v_account.ledger_version, v_before);
    RETURN QUERY
    SELECT
        v_account.id, p_at, b.state, b.paid_credits, b.free_uses, v_version, e.transaction_id,
        e.type, e.transaction_type, e.amount_minor, e.created_at, e.description, e.writer_kind,
        CASE WHEN p_api_key_id IS NULL THEN e.writer END
    FROM billing_data.balance_before(v_account, v_version, v_before) AS b
    LEFT JOIN billing_data.list_entries(v_account.id, v_version - 1, v_version) AS e ON true;
END
$$;
COMMENT ON FUNCTION billing.balance_at IS
    'Tells what an account had at a past time, and which entry left it so. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.balance_at TO billing_server, billing_dba;

-- The rows of a statement between two places of an account's ledger: its entries above p_after and
-- up to p_through, and when staff set its free uses. What staff set stands after the entry that it
-- followed; what followed the entry p_after counts from p_from on, and what followed p_through only
-- before p_to. Where the account's books begin among these entries, a row says with what. The
-- entries of before are the old service's, in another unit: they change no balance here.
CREATE OR REPLACE FUNCTION billing_data.statement_rows(
    p_account_id uuid, p_after bigint, p_through bigint, p_from timestamptz, p_to timestamptz
) RETURNS TABLE (
    kind text,
    ledger_version bigint,
    place integer,
    at timestamptz,
    transaction_id uuid,
    type text,
    transaction_type text,
    paid_with text,
    amount_minor bigint,
    credits_change bigint,
    free_uses_change bigint,
    balance_after bigint,
    currency text,
    reason text,
    corrects_id uuid,
    transfer_id uuid,
    writer_kind text,
    writer text,
    external_transaction_id text,
    message_id text,
    agent_id text,
    channel_id text,
    request_id text
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH books AS (
        SELECT o.ledger_version AS opened_at, o.paid_credits AS opened_with
        FROM billing_data.ledger_openings AS o
        WHERE o.account_id = p_account_id AND o.ledger_version > 0
    )
    SELECT
        'entry', e.ledger_version, 1, e.created_at, e.transaction_id, e.type, e.transaction_type,
        e.paid_with, e.amount_minor,
        CASE WHEN b.opened_at >= e.ledger_version THEN NULL ELSE e.credits_change END,
        CASE WHEN b.opened_at >= e.ledger_version THEN NULL ELSE e.free_uses_change END,
        CASE WHEN b.opened_at >= e.ledger_version THEN NULL ELSE e.balance_after END,
        e.currency, e.description, e.corrects_id, e.transfer_id, e.writer_kind, e.writer,
        e.external_transaction_id, e.message_id, e.agent_id, e.channel_id, e.request_id
    FROM billing_data.list_entries(p_account_id, p_after, p_through) AS e
    LEFT JOIN books AS b ON true
    UNION ALL
    SELECT
        'opening', b.opened_at, 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, b.opened_with,
        NULL, 'The books begin: taken over from the old service', NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL
    FROM books AS b
    WHERE b.opened_at > p_after AND b.opened_at <= p_through
    UNION ALL
    SELECT
        'free_uses', f.ledger_version, 3, f.created_at, f.id, NULL, NULL, NULL, NULL, 0,
        f.after - f.before, NULL, NULL, f.reason, NULL, NULL,
        billing_data.writer_kind(NULL, f.admin_user_id, NULL, false), f.writer, NULL, NULL, NULL,
        NULL, NULL
    FROM billing_data.list_free_use_sets(p_account_id) AS f
    WHERE (f.ledger_version > p_after OR (f.ledger_version = p_after AND f.created_at >= p_from))
        AND (
            f.ledger_version < p_through
            OR (f.ledger_version = p_through AND f.created_at < p_to)
        )
$$;
COMMENT ON FUNCTION billing_data.statement_rows IS
    'The rows of a statement between its opening and its closing. Helper.';

-- Raises invalid_argument unless these name a part of a ledger that has p_newest entries.
CREATE OR REPLACE FUNCTION billing_data.require_part(
    p_after bigint, p_through bigint, p_limit bigint, p_newest bigint
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        (p_limit BETWEEN 1 AND 10000) IS NOT FALSE, 'p_limit', 'it must be 1 to 10000'
    );
    PERFORM billing_data.require(
        (v.version BETWEEN 0 AND p_newest) IS NOT FALSE, v.argument,
        'it must be a ledger version of the account'
    )
    FROM (VALUES (p_after, 'p_after'), (p_through, 'p_through')) AS v (version, argument);
END
$$;
COMMENT ON FUNCTION billing_data.require_part IS
    'Raises invalid_argument unless a part of a ledger is named. Helper.';

-- An account's statement of a period: a row of the kind opening with what it had before, its
-- entries in their order, when staff set its free uses (kind free_uses), and a row of the kind
-- closing with what it had afterwards. The period is half open: an entry written at exactly p_from
-- belongs to it, and one written at exactly p_to belongs to the next. So the closing of a period is
-- the opening of the next, and every entry is in one of them. Opening, plus credits_change and
-- free_uses_change of all rows, is closing. p_from is the beginning of this UTC month and p_to a
-- month after p_from unless they are given. A time without a zone is in the session's time zone:
-- write '2026-11-01 00:00Z' for UTC. An account that was made within the period opens when it was
-- made. Balances are NULL before that, and before the books of an account that was taken over
-- begin. A reader who takes a long statement in pages gives p_limit (entries of a page, to 10000),
-- from the second page on p_after (the ledger version of the last entry it has), and p_through, the
-- ledger version at the end of the period, from billing.balance_at. The last page has the closing
-- row. For an account that was merged it is the statement of the one that stayed, and with p_follow
-- false its own, which the merge closed.
-- Errors: actor and key errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.statement(billing.find_account('oauth:google:1'),
--              '2026-11-01 00:00Z', '2026-12-01 00:00Z');
CREATE OR REPLACE FUNCTION billing.statement(
    p_account_id uuid,
    p_from timestamptz DEFAULT NULL,
    p_to timestamptz DEFAULT NULL,
    p_after bigint DEFAULT NULL,
    p_through bigint DEFAULT NULL,
    p_limit bigint DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_follow boolean DEFAULT true
) RETURNS TABLE (
    kind text,
    at timestamptz,
    ledger_version bigint,
    type text,
    transaction_type text,
    paid_with text,
    amount_minor bigint,
    credits_change bigint,
    balance_after bigint,
    free_uses_change bigint,
    free_uses_after bigint,
    currency text,
    reason text,
    corrects_id uuid,
    transfer_id uuid,
    writer_kind text,
    writer text,
    transaction_id uuid,
    external_transaction_id text,
    metadata_message_id text,
    metadata_agent_id text,
    metadata_channel_id text,
    metadata_request_id text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_from timestamptz;
    v_to timestamptz;
    v_after bigint;
    v_end bigint;  -- the ledger version at the end of the period
    v_through bigint;  -- the ledger version at the end of this page
    v_state text;
    v_free_uses bigint;
    v_is_made_here boolean;
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    SELECT p.first, p.beyond INTO STRICT v_from, v_to
    FROM billing_data.period(p_from, p_to) AS p;
    v_account := billing_data.require_account(p_account_id, p_follow);
    PERFORM billing_data.require_part(p_after, p_through, p_limit, v_account.ledger_version);
    v_end := coalesce(
        p_through, billing_data.version_before(v_account.id, v_account.ledger_version, v_to)
    );
    v_after := coalesce(p_after, billing_data.version_before(v_account.id, v_end, v_from));
    v_through := least(v_end, v_after + p_limit);
    v_is_made_here := p_after IS NULL AND v_after = 0
        AND v_account.created_at >= v_from AND v_account.created_at < v_to;
    SELECT b.state, b.paid_credits, b.free_uses
    INTO STRICT v_state, balance_after, free_uses_after
    FROM billing_data.balance_before(
        v_account, v_after,
        CASE
            WHEN p_after IS NOT NULL THEN '-infinity'
            WHEN v_is_made_here THEN v_account.created_at + interval '1 microsecond'
            ELSE v_from
        END
    ) AS b;
    v_free_uses := coalesce(
        free_uses_after,
        (
            SELECT o.free_uses FROM billing_data.ledger_openings AS o
            WHERE o.account_id = v_account.id
        )
    );
    ledger_version := v_after;
    currency := v_account.currency;
    IF p_after IS NULL THEN
        kind := 'opening';
        at := CASE WHEN v_is_made_here THEN v_account.created_at ELSE v_from END;
        reason := CASE
            WHEN v_is_made_here THEN 'The account was made'
            ELSE billing_data.why_no_balance(v_state)
        END;
        RETURN NEXT;
    END IF;
    RETURN QUERY
    SELECT
        r.kind, r.at, r.ledger_version, r.type, r.transaction_type, r.paid_with, r.amount_minor,
        r.credits_change, r.balance_after, r.free_uses_change,
        CASE
            WHEN r.kind <> 'entry' OR r.free_uses_change IS NOT NULL
                THEN v_free_uses + (
                    sum(coalesce(r.free_uses_change, 0)) OVER (
                        ORDER BY r.ledger_version, r.place, r.at, r.transaction_id
                    )
                )::bigint
        END,
        r.currency, r.reason, r.corrects_id, r.transfer_id, r.writer_kind,
        CASE WHEN p_api_key_id IS NULL THEN r.writer END, r.transaction_id,
        r.external_transaction_id, r.message_id, r.agent_id, r.channel_id, r.request_id
    FROM billing_data.statement_rows(
        v_account.id, v_after, v_through,
        CASE WHEN p_after IS NULL THEN v_from ELSE '-infinity' END,
        CASE WHEN v_through = v_end THEN v_to ELSE '-infinity' END
    ) AS r
    ORDER BY r.ledger_version, r.place, r.at, r.transaction_id;
    IF v_through = v_end THEN
        SELECT b.state, b.paid_credits, b.free_uses
        INTO STRICT v_state, balance_after, free_uses_after
        FROM billing_data.balance_before(v_account, v_end, v_to) AS b;
        kind := 'closing';
        at := v_to;
        ledger_version := v_end;
        reason := billing_data.why_no_balance(v_state);
        RETURN NEXT;
    END IF;
END
$$;
COMMENT ON FUNCTION billing.statement IS
    'An account''s statement of a period: opening, every entry, closing. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.statement TO billing_server, billing_dba;
