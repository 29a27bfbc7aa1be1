-- Returns of money. A return (a refund or a dispute) is a state and not an event: how much of its
-- money is away from us now. The credits to take back from a purchase follow from it:
-- billing_data.uses_due of the money that is away over all its returns together, as far as the
-- account had credits when the money went. The rest is the shortfall; money that comes back lowers
-- the shortfall first. Each change is a ledger entry of its own, so a dispute may be lost, won and
-- lost again.

-- How many of a purchase's uses must be taken back when this much of its money is away: the same
-- share, rounded down; all of them for all the money.
CREATE OR REPLACE FUNCTION billing_data.uses_due(
    p_uses bigint, p_price_minor bigint, p_money numeric
) RETURNS bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN floor(p_uses * least(coalesce(p_money, 0), p_price_minor) / p_price_minor)::bigint;
COMMENT ON FUNCTION billing_data.uses_due IS
    'The uses due for money that is away, rounded down. Helper.';

-- Whether a report of a return is newer than what is known. A refund that failed or was canceled
-- stays so. The list of a dispute's balance transactions only grows, so the longer list is newer.
-- Where the lists are equally long, the provider's time decides, and within one second the later
-- state.
CREATE OR REPLACE FUNCTION billing_data.is_news_of_return(
    p_known billing_data.payment_returns, p_told billing_data.payment_returns
) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN (p_known).kind = 'refund' AND ((p_known).state = 'closed') <> ((p_told).state = 'closed')
        THEN (p_told).state = 'closed'
    WHEN (p_told).transactions <> (p_known).transactions
        THEN (p_told).transactions > (p_known).transactions
    WHEN (p_told).as_of <> (p_known).as_of THEN (p_told).as_of > (p_known).as_of
    ELSE array_position(ARRAY['inquiry', 'open', 'closed'], (p_told).state)
        >= array_position(ARRAY['inquiry', 'open', 'closed'], (p_known).state)
END;
COMMENT ON FUNCTION billing_data.is_news_of_return IS
    'Tells whether a report of a return is newer than what is known. Helper.';

-- Computes, for each return of a purchase whose money is away, how many uses must be taken back for
-- it and how many of them are short; p_short is the shortfall of all returns together. The uses are
-- assigned to the oldest return first. A shortfall stays with its return as far as possible. What
-- is added to it or removed from it belongs to the return that changed; what has no room there
-- belongs to the newest return. A shortfall that grows is open again.
-- Locks: none, the caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.spread_returns(
    p_purchase billing_data.purchases, p_changed_return_id text, p_short bigint, p_now timestamptz
) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH dues AS (
        SELECT
            n.provider, n.return_id, n.return_id = p_changed_return_id AS is_changed,
            row_number() OVER oldest AS place, n.uses_due - n.uses_taken AS short,
            billing_data.uses_due(
                (p_purchase).uses, (p_purchase).price_minor, sum(n.away_minor) OVER oldest
            ) - billing_data.uses_due(
                (p_purchase).uses, (p_purchase).price_minor,
                sum(n.away_minor) OVER oldest - n.away_minor
            ) AS due
        FROM billing_data.payment_returns AS n
        WHERE n.account_id = (p_purchase).account_id
            AND n.purchase_id = (p_purchase).id
            AND n.status = 'taken'
        WINDOW oldest AS (ORDER BY n.created_at, n.return_id)
    ),
    -- Room for the shortfall, in the order in which it is filled.
    rooms AS (
        SELECT d.return_id, 1 AS turn, d.place, least(d.short, d.due) AS uses
        FROM dues AS d
        WHERE NOT d.is_changed
        UNION ALL
        SELECT d.return_id, 2, d.place, d.due FROM dues AS d WHERE d.is_changed
        UNION ALL
        SELECT d.return_id, 3, -d.place, d.due - least(d.short, d.due)
        FROM dues AS d
        WHERE NOT d.is_changed
    ),
    filled AS (
        SELECT
            m.return_id,
            greatest(
                least(
                    m.uses,
                    p_short - (sum(m.uses) OVER (ORDER BY m.turn, m.place) - m.uses)
                ),
                0
            ) AS short
        FROM rooms AS m
    ),
    shares AS (
        SELECT d.provider, d.return_id, d.due, d.short AS short_before, sum(f.short) AS short
        FROM dues AS d
        INNER JOIN filled AS f ON f.return_id = d.return_id
        GROUP BY d.provider, d.return_id, d.due, d.short
    )
    UPDATE billing_data.payment_returns AS r
    SET uses_due = s.due,
        uses_taken = s.due - s.short,
        resolved_at = CASE WHEN s.short <= s.short_before THEN r.resolved_at END,
        resolution = CASE WHEN s.short <= s.short_before THEN r.resolution END,
        updated_at = p_now
    FROM shares AS s
    WHERE r.account_id = (p_purchase).account_id
        AND r.provider = s.provider
        AND r.return_id = s.return_id
        AND (r.uses_due, r.uses_taken) <> (s.due, s.due - s.short);
$$;
COMMENT ON FUNCTION billing_data.spread_returns IS
    'Computes for which returns of a purchase uses are due and short. Helper.';

-- Adjusts a purchase's credits to the money that is away, after the money away by one of its
-- returns changed to p_away_minor. Takes or gives back the difference by one ledger entry, of the
-- account that the purchase's account leads to.
-- Locks: none, the caller holds account and purchase. Writes: payment_returns 1..n, credits 0..1,
-- accounts 0..1, payment_return_credits 0..1, and what billing_data.give_back_to_lots writes.
-- Returns false, and writes nothing, when the account cannot hold the credits that come back.
CREATE OR REPLACE FUNCTION billing_data.book_return(
    p_purchase billing_data.purchases,
    p_return billing_data.payment_returns,
    p_away_minor bigint,
    p_database_role text,
    p_payment_provider text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_key text := p_purchase.provider || '-' || p_return.return_id;
    v_account billing_data.accounts;
    v_credit billing_data.credits;
    v_earlier billing_data.credits;
    v_before record;
    v_entries record;
    v_due bigint;
    v_change bigint;
    v_moved bigint := p_away_minor - CASE WHEN p_return.status = 'waiting' THEN 0
        ELSE p_return.away_minor END;
BEGIN
    SELECT a.* INTO STRICT v_account
    FROM billing_data.accounts AS a
    WHERE a.id = billing_data.surviving_account(p_purchase.account_id);
    SELECT
        coalesce(sum(r.uses_due), 0)::bigint AS due,
        coalesce(sum(r.uses_taken), 0)::bigint AS taken,
        coalesce(sum(r.away_minor) FILTER (WHERE r.return_id <> p_return.return_id), 0)
            AS away_otherwise
    INTO STRICT v_before
    FROM billing_data.payment_returns AS r
    WHERE r.account_id = p_purchase.account_id
        AND r.purchase_id = p_purchase.id
        AND r.status = 'taken';
    SELECT
        count(*) AS n, count(*) FILTER (WHERE c.amount_minor < 0) AS takings
    INTO STRICT v_entries
    FROM billing_data.payment_return_credits AS n
    INNER JOIN billing_data.credits AS c ON c.id = n.credit_id
    WHERE n.account_id = p_purchase.account_id
        AND n.provider = p_purchase.provider
        AND n.return_id = p_return.return_id;

    v_due := billing_data.uses_due(
        p_purchase.uses, p_purchase.price_minor, v_before.away_otherwise + p_away_minor
    );
    v_change := CASE
        -- What open holds keep is not taken.
        WHEN v_due > v_before.due THEN -least(
            v_due - v_before.due, v_account.paid_credits - v_account.held_credits
        )
        ELSE greatest(v_before.taken - v_due, 0)
    END;
    IF v_change > 0 AND v_account.paid_credits > billing_data.max_amount() - v_change THEN
        RETURN false;
    END IF;
    IF v_due > v_before.due AND v_entries.n = 0 THEN
        v_earlier := billing_data.credit_of_payment(
            billing_data.merge_path(p_purchase.account_id), v_key, 'refund', p_return.return_id
        );
    END IF;
    IF v_earlier.amount_minor < 0 THEN  -- taken before a rollback of these tables
        v_credit := v_earlier;
        v_change := greatest(v_credit.amount_minor, v_before.due - v_due);
    ELSIF v_change <> 0 THEN
        v_key := v_key || CASE WHEN v_change > 0 THEN '-restored' ELSE '' END || CASE
            WHEN (v_change < 0 AND v_entries.takings > 0)
                OR (v_change > 0 AND v_entries.n > v_entries.takings)
                THEN '-' || v_entries.n + 1
            ELSE ''
        END;
        v_credit := billing_data.append_credit(
            v_account, v_change, CASE WHEN v_change < 0 THEN 'refund' ELSE 'adjustment' END,
            format(
                CASE WHEN v_change < 0 THEN '%s of %s via %s (%s uses taken back)'
                    ELSE '%s of %s via %s undone (%s uses given back)' END,
                initcap(p_return.kind),
                billing_data.money_text(abs(v_moved), p_purchase.currency),
                billing_data.provider_name(p_purchase.provider), abs(v_change)
            ),
            p_return.return_id, billing_data.free_key(v_account.id, v_key), NULL, v_now, NULL, NULL,
            p_database_role, p_payment_provider, p_own_id => p_purchase.credit_id
        );
        IF v_change > 0 THEN
            PERFORM billing_data.give_back_to_lots(
                ARRAY(
                    SELECT n.credit_id
                    FROM billing_data.payment_return_credits AS n
                    INNER JOIN billing_data.payment_returns AS r
                        USING (account_id, provider, return_id)
                    WHERE r.account_id = p_purchase.account_id
                        AND r.purchase_id = p_purchase.id
                ),
                v_before.taken, v_account.id, v_credit, 0
            );
        END IF;
    END IF;
    IF v_credit.id IS NOT NULL THEN
        INSERT INTO billing_data.payment_return_credits (
            account_id, provider, return_id, credit_id
        )
        VALUES (p_purchase.account_id, p_purchase.provider, p_return.return_id, v_credit.id);
    END IF;

    UPDATE billing_data.payment_returns AS r
    SET status = CASE WHEN p_away_minor > 0 THEN 'taken' ELSE 'restored' END,
        away_minor = p_away_minor,
        amount_minor = greatest(r.amount_minor, p_away_minor),
        uses_due = CASE WHEN p_away_minor > 0 THEN r.uses_due ELSE 0 END,
        uses_taken = CASE WHEN p_away_minor > 0 THEN r.uses_taken ELSE 0 END,
        updated_at = v_now
    WHERE r.account_id = p_purchase.account_id
        AND r.provider = p_purchase.provider
        AND r.return_id = p_return.return_id;
    PERFORM billing_data.spread_returns(
        p_purchase, p_return.return_id, v_due - (v_before.taken - v_change), v_now
    );
    RETURN true;
END
$$;
COMMENT ON FUNCTION billing_data.book_return IS
    'Adjusts a purchase''s credits to the money that is away. Helper.';

-- Applies a report of a return. A report that is older than what is known changes nothing.
-- p_read_at says that the return was read at the provider at that time by our clock; then it is the
-- newest report, unless the return has changed here since.
-- Locks: none, the caller holds account and purchase. Writes: payment_returns 0..n, and what
-- billing_data.book_return writes. Returns 'taken_back', 'restored', 'unchanged'; 'waiting' (the
-- payment itself has not been credited yet); 'ignored' (an inquiry that moves no money);
-- 'payment_mismatch'; 'balance_overflow', which leaves everything as it was.
CREATE OR REPLACE FUNCTION billing_data.apply_return(
    p_purchase billing_data.purchases,
    p_told billing_data.payment_returns,
    p_read_at timestamptz,
    p_database_role text,
    p_payment_provider text
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_known billing_data.payment_returns;
    v_away_before bigint := 0;
    -- The status as long as the payment itself is not credited.
    v_status text := CASE WHEN p_told.away_minor > 0 THEN 'waiting' ELSE 'restored' END;
BEGIN
    SELECT r.* INTO v_known
    FROM billing_data.payment_returns AS r
    WHERE r.account_id = p_purchase.account_id
        AND r.provider = p_purchase.provider
        AND r.return_id = p_told.return_id;
    IF NOT FOUND THEN
        IF p_told.state = 'inquiry' AND p_told.away_minor = 0 THEN
            RETURN 'ignored';
        END IF;
        INSERT INTO billing_data.payment_returns AS r (
            account_id, provider, return_id, purchase_id, kind, status, amount_minor, away_minor,
            state, transactions, as_of, created_at, updated_at
        )
        VALUES (
            p_purchase.account_id, p_purchase.provider, p_told.return_id, p_purchase.id,
            p_told.kind, v_status, p_told.amount_minor, p_told.away_minor, p_told.state,
            p_told.transactions, p_told.as_of, v_now, v_now
        )
        RETURNING r.* INTO v_known;
    ELSIF v_known.purchase_id <> p_purchase.id THEN
        RETURN 'payment_mismatch';
    ELSIF NOT (
        coalesce(p_read_at > v_known.updated_at, false)
        OR billing_data.is_news_of_return(v_known, p_told)
    ) THEN
        RETURN CASE v_known.status WHEN 'waiting' THEN 'waiting' ELSE 'unchanged' END;
    ELSE
        v_away_before := v_known.away_minor;
    END IF;

    IF p_purchase.settled_at IS NOT NULL
        AND (v_known.status = 'waiting' OR v_away_before <> p_told.away_minor)
        AND NOT billing_data.book_return(
            p_purchase, v_known, p_told.away_minor, p_database_role, p_payment_provider
        )
    THEN
        RETURN 'balance_overflow';
    END IF;
    UPDATE billing_data.payment_returns AS r
    SET status = CASE WHEN p_purchase.settled_at IS NULL THEN v_status ELSE r.status END,
        amount_minor = p_told.amount_minor,
        away_minor = p_told.away_minor,
        state = p_told.state,
        transactions = coalesce(p_told.transactions, r.transactions),
        as_of = p_told.as_of,
        updated_at = v_now
    WHERE r.account_id = v_known.account_id
        AND r.provider = v_known.provider
        AND r.return_id = v_known.return_id;
    RETURN CASE
        WHEN p_told.away_minor < v_away_before THEN 'restored'
        WHEN p_purchase.settled_at IS NULL AND p_told.away_minor > 0 THEN 'waiting'
        WHEN p_told.away_minor > v_away_before THEN 'taken_back'
        ELSE 'unchanged'
    END;
END
$$;
COMMENT ON FUNCTION billing_data.apply_return IS
    'Applies how much of a refund''s or dispute''s money is away. Helper.';

-- Applies a report of a return of a purchase's money, and moves the credits.
-- Locks: the account, the purchase. Returns what billing_data.apply_return does, or
-- 'currency_mismatch'.
CREATE OR REPLACE FUNCTION billing_data.return_money(
    p_provider text,
    p_payment_id text,
    p_account_id uuid,
    p_purchase_id uuid,
    p_told billing_data.payment_returns,
    p_currency text,
    p_read_at timestamptz,
    p_database_role text,
    p_payment_provider text
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase billing_data.purchases;
BEGIN
    PERFORM billing_data.lock_account(p_account_id);
    PERFORM FROM billing_data.purchases AS p
    WHERE p.account_id = p_account_id AND p.id = p_purchase_id
    FOR UPDATE;
    v_purchase := billing_data.purchase_of_payment(
        p_provider, p_payment_id, ARRAY[p_account_id], p_purchase_id
    );
    RETURN CASE
        WHEN v_purchase.payment_id <> p_payment_id OR v_purchase.id <> p_purchase_id
            THEN 'payment_mismatch'
        WHEN upper(p_currency) IS DISTINCT FROM v_purchase.currency THEN 'currency_mismatch'
        ELSE billing_data.apply_return(
            v_purchase, p_told, p_read_at, p_database_role, p_payment_provider
        )
    END;
END
$$;
COMMENT ON FUNCTION billing_data.return_money IS
    'Moves the credits of a purchase whose money went back or came again. Helper.';

-- The returns of money that an event reports, checked, one row each in the order of the report.
-- Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.told_returns(
    p_ids text[],
    p_kinds text[],
    p_amounts_minor bigint[],
    p_withdrawn boolean[],
    p_away_minor bigint[],
    p_states text[],
    p_transactions bigint[],
    p_occurred_at timestamptz
) RETURNS SETOF billing_data.payment_returns
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_told billing_data.payment_returns;
BEGIN
    PERFORM billing_data.require_same_length(
        ARRAY[
            cardinality(p_ids), cardinality(p_kinds), cardinality(p_amounts_minor),
            coalesce(cardinality(p_away_minor), cardinality(p_withdrawn), 0)
        ],
        ARRAY[
            cardinality(p_withdrawn), cardinality(p_states), cardinality(p_transactions)
        ],
        ARRAY[
            array_dims(p_ids), array_dims(p_kinds), array_dims(p_amounts_minor),
            array_dims(p_away_minor), array_dims(p_withdrawn), array_dims(p_states),
            array_dims(p_transactions)
        ]
    );
    FOR v_place IN 1..cardinality(p_ids) LOOP
        v_told.return_id := p_ids[v_place];
        v_told.kind := p_kinds[v_place];
        v_told.amount_minor := p_amounts_minor[v_place];
        v_told.away_minor := coalesce(
            p_away_minor[v_place],
            CASE p_withdrawn[v_place] WHEN true THEN v_told.amount_minor WHEN false THEN 0 END
        );
        v_told.state := coalesce(
            p_states[v_place], CASE WHEN v_told.away_minor > 0 THEN 'open' ELSE 'closed' END
        );
        v_told.transactions := p_transactions[v_place];
        v_told.as_of := CASE
            WHEN p_states IS NULL AND v_told.away_minor > 0 THEN 'epoch'
            ELSE coalesce(p_occurred_at, clock_timestamp())
        END;
        PERFORM billing_data.require(
            length(v_told.return_id) BETWEEN 1 AND billing_data.most('return_id')
            AND v_told.kind IN ('refund', 'dispute')
            AND v_told.amount_minor > 0
            AND v_told.away_minor BETWEEN 0 AND v_told.amount_minor
            AND v_told.state IN ('inquiry', 'open', 'closed')
            AND (v_told.transactions >= 0) IS NOT FALSE,
            'p_return_ids',
            'a return needs an id, a kind (refund or dispute), an amount, how much of it is away'
            ' and a state (inquiry, open or closed)'
        );
        RETURN NEXT v_told;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.told_returns IS
    'The returns of money that an event reports, checked. Helper.';

-- Records how much of a refund's or dispute's money is away now (p_away_minor; without it all of
-- the money when p_withdrawn, otherwise none), and takes or gives back the credits, in proportion
-- and never below zero. This is the newest report there is, unless the return has changed here
-- after p_read_at, the time when the caller read it at the provider. p_transactions is how many
-- balance transactions a dispute had then. away_minor is the amount known to be away afterwards.
-- Locks: the account, the purchase. Writes: payment_returns, payment_return_credits, credits,
-- accounts, admin_audit_logs 1 when the amount away has changed. Errors: actor_required,
-- invalid_argument. The outcome tells the rest: 'taken_back', 'restored', 'waiting' (the payment
-- itself has not been credited yet), 'unchanged', 'resolved' (a person has dealt with the payment,
-- and nothing was credited for it), 'ignored' (not one of our payments, or an inquiry that moves no
-- money), or what is wrong.
-- Example: SELECT * FROM billing.return_payment(p_payment_id => 'pi_1', p_return_id => 're_1',
--              p_kind => 'refund', p_amount_minor => 250);
CREATE OR REPLACE FUNCTION billing.return_payment(
    p_payment_id text,
    p_return_id text,
    p_kind text,
    p_amount_minor bigint,
    p_currency text DEFAULT 'USD',
    p_withdrawn boolean DEFAULT true,
    p_provider text DEFAULT billing.default_payment_provider(),
    p_away_minor bigint DEFAULT NULL,
    p_state text DEFAULT NULL,
    p_transactions bigint DEFAULT NULL,
    p_read_at timestamptz DEFAULT NULL
) RETURNS TABLE (outcome text, account_id uuid, purchase_id uuid, away_minor bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_read_at timestamptz := coalesce(p_read_at, clock_timestamp());
    v_told billing_data.payment_returns;
BEGIN
    PERFORM billing_data.require_filled(p_payment_id, 'p_payment_id');
    PERFORM billing_data.require_filled(p_return_id, 'p_return_id');
    PERFORM billing_data.require(
        p_kind IN ('refund', 'dispute'), 'p_kind', 'it must be refund or dispute'
    );
    PERFORM billing_data.require(p_amount_minor > 0, 'p_amount_minor', 'it must be greater than 0');
    PERFORM billing_data.require(
        p_withdrawn IS NOT NULL, 'p_withdrawn', 'it must be true or false'
    );
    PERFORM billing_data.require_moment(p_read_at, 'p_read_at');
    PERFORM billing_data.require(
        coalesce(p_away_minor BETWEEN 0 AND p_amount_minor, true), 'p_away_minor',
        'it must be 0 to p_amount_minor'
    );
    PERFORM billing_data.require(
        coalesce(p_state IN ('inquiry', 'open', 'closed'), true), 'p_state',
        'it must be inquiry, open or closed'
    );
    PERFORM billing_data.require(
        coalesce(p_transactions >= 0, true), 'p_transactions', 'it must not be negative'
    );
    PERFORM billing_data.require(
        isfinite(v_read_at) AND v_read_at <= clock_timestamp(),
        'p_read_at', 'it must be a time that has been'
    );
    PERFORM billing_data.require_payment_provider(p_provider);
    PERFORM billing_data.require_durable_commit();

    v_told.return_id := p_return_id;
    v_told.kind := p_kind;
    v_told.amount_minor := p_amount_minor;
    v_told.away_minor :=
        coalesce(p_away_minor, CASE WHEN p_withdrawn THEN p_amount_minor ELSE 0 END);
    v_told.state :=
        coalesce(p_state, CASE WHEN v_told.away_minor > 0 THEN 'open' ELSE 'closed' END);
    v_told.transactions := p_transactions;
    v_told.as_of := v_read_at;
    SELECT p.account_id, p.id INTO account_id, purchase_id
    FROM billing_data.purchases AS p
    WHERE p.provider = p_provider AND p.payment_id = p_payment_id;
    outcome := CASE
        WHEN NOT FOUND THEN 'ignored'
        WHEN billing_data.is_resolved_without_credit(p_provider, p_payment_id) THEN 'resolved'
        ELSE billing_data.return_money(
            p_provider, p_payment_id, account_id, purchase_id, v_told, p_currency, v_read_at,
            v_actor.database_role, NULL
        )
    END;
    SELECT r.away_minor INTO away_minor
    FROM billing_data.payment_returns AS r
    WHERE r.account_id = return_payment.account_id
        AND r.provider = p_provider
        AND r.return_id = p_return_id;
    IF outcome IN ('taken_back', 'restored', 'waiting') THEN
        PERFORM billing_data.write_audit(
            'payment.return', 'payment', p_payment_id,
            jsonb_build_object(
                'provider', p_provider, 'return_id', p_return_id, 'kind', p_kind,
                'amount_minor', p_amount_minor, 'away_minor', away_minor, 'account_id', account_id,
                'outcome', outcome
            ),
            NULL, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.return_payment IS
    'Takes back, or gives back, the credits of one refund or dispute. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.return_payment TO billing_dba;
