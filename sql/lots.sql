-- Lots: credits that are not of the usual kind, because they end, because they are spent before or
-- after the others, or because their source must stay known. They have rows; all other credits of
-- an account are one pool, which is what is available less what its lots have left. Credits are
-- spent by priority, then by the time at which they end (the pool never ends), then by age. What an
-- entry took of a lot is an allocation; the rest of the entry was taken of the pool.
-- accounts.has_lots is false where no lot has anything left or held: then nothing here is called.

-- The priority of credits whose giver names none; lower numbers are spent first. The pool has this
-- priority.
CREATE OR REPLACE FUNCTION billing_data.usual_priority() RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 50::smallint;
COMMENT ON FUNCTION billing_data.usual_priority IS 'The priority of usual credits. Helper.';

-- The source of credits whose giver names none.
CREATE OR REPLACE FUNCTION billing_data.usual_source(p_transaction_type text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_transaction_type WHEN 'adjustment' THEN 'grant' ELSE p_transaction_type END;
COMMENT ON FUNCTION billing_data.usual_source IS
    'The source of credits of a transaction type. Helper.';

-- What an amount takes of an account's lots, in the order in which credits are spent; the rest of
-- the amount is taken of the pool. p_available is what the account had available before. Where
-- p_amount is 0 or less, nothing is taken and p_available does not matter. p_own_id is a lot or a
-- credit: this lot, or the lots that this credit made, are taken first. Where a part of this credit
-- went to the pool, the pool comes next.
CREATE OR REPLACE FUNCTION billing_data.plan_draw(
    p_account_id uuid, p_amount bigint, p_available bigint, p_own_id uuid
) RETURNS TABLE (lot_id uuid, amount_minor bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_own_pool boolean := p_own_id IS NOT NULL AND coalesce((
        SELECT c.amount_minor > coalesce(
            (
                SELECT sum(l.amount_minor)
                FROM billing_data.lots AS l
                WHERE l.credit_id = p_own_id
            ),
            0
        )
        FROM billing_data.credits AS c
        WHERE c.id = p_own_id
    ), false);
BEGIN
    RETURN QUERY
    WITH lots AS MATERIALIZED (
        SELECT
            l.id, l.left_minor, l.priority, l.expires_at, l.created_at,
            CASE WHEN p_own_id IN (l.id, l.credit_id, l.origin_id) THEN 0 ELSE 2 END AS turn
        FROM billing_data.lots AS l
        WHERE l.account_id = p_account_id AND l.has_left
    ),
    sources AS (
        SELECT l.id, l.left_minor, l.turn, l.priority, l.expires_at, l.created_at FROM lots AS l
        UNION ALL
        SELECT
            NULL, (p_available - coalesce(sum(l.left_minor), 0))::bigint,
            CASE WHEN v_own_pool THEN 1 ELSE 2 END, billing_data.usual_priority(), NULL, NULL
        FROM lots AS l
    ),
    placed AS (
        SELECT
            s.id, s.left_minor,
            sum(s.left_minor) OVER (
                ORDER BY s.turn, s.priority, s.expires_at, s.created_at, s.id
            ) - s.left_minor AS before
        FROM sources AS s
    )
    SELECT p.id, least(p.left_minor, p_amount - p.before)::bigint
    FROM placed AS p
    WHERE p.id IS NOT NULL AND p_amount > 0 AND p.before < p_amount;
END
$$;
COMMENT ON FUNCTION billing_data.plan_draw IS
    'What an amount takes of an account''s lots, in the order of spending. Helper.';

-- Notes that an account has no lots any more, where that is so. It is called where a lot may have
-- been used up.
-- Writes: accounts 0..1. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.note_lots(p_account_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing_data.lots AS l WHERE l.account_id = p_account_id AND l.has_left
    ) THEN
        RETURN;
    END IF;
    UPDATE billing_data.accounts AS a
    SET has_lots = false
    WHERE a.id = p_account_id
        AND NOT EXISTS (
            SELECT
            FROM billing_data.holds AS h
            INNER JOIN billing_data.hold_lots AS k ON k.hold_id = h.id
            WHERE h.account_id = p_account_id AND h.state = 'open'
        );
END
$$;
COMMENT ON FUNCTION billing_data.note_lots IS 'Notes that an account has no lots any more. Helper.';

-- Takes what an entry spends of an account's lots.
-- Writes: lot_allocations 0..n, lots 0..n, accounts 0..1. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.take_lots(
    p_account_id uuid, p_entry_id uuid, p_amount bigint, p_available bigint, p_own_id uuid
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
    WITH drawn AS (
        INSERT INTO billing_data.lot_allocations AS n (entry_id, lot_id, amount_minor)
        SELECT p_entry_id, d.lot_id, d.amount_minor
        FROM billing_data.plan_draw(p_account_id, p_amount, p_available, p_own_id) AS d
        RETURNING n.lot_id, n.amount_minor
    )
    UPDATE billing_data.lots AS l
    SET left_minor = l.left_minor - d.amount_minor
    FROM drawn AS d
    WHERE l.id = d.lot_id;
    IF FOUND THEN
        PERFORM billing_data.note_lots(p_account_id);
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.take_lots IS
    'Takes what an entry spends of an account''s lots. Helper.';

-- Takes what new charges spend of the lots of these accounts.
CREATE OR REPLACE FUNCTION billing_data.take_lots_for_charges(
    p_outcomes billing.charge_outcome[], p_account_ids uuid[]
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_charge record;
BEGIN
    FOR v_charge IN
        SELECT
            o.account_id, o.charge_id, o.amount_minor, o.balance_before - a.held_credits AS left
        FROM unnest(p_outcomes) AS o
        INNER JOIN billing_data.accounts AS a ON a.id = o.account_id
        WHERE o.account_id = ANY (p_account_ids)
            AND o.outcome = 'created' AND o.paid_with = 'paid'
        ORDER BY o.account_id, o.item
    LOOP
        PERFORM billing_data.take_lots(
            v_charge.account_id, v_charge.charge_id, v_charge.amount_minor, v_charge.left, NULL
        );
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.take_lots_for_charges IS
    'Takes what new charges spend of the lots of accounts. Helper.';

-- Notes that an account has lots, and when the first of them ends.
CREATE OR REPLACE FUNCTION billing_data.note_new_lots(p_account_id uuid, p_expires_at timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE billing_data.accounts AS a
    SET has_lots = true, due_at = least(a.due_at, p_expires_at)
    WHERE a.id = p_account_id;
END
$$;
COMMENT ON FUNCTION billing_data.note_new_lots IS 'Notes that an account has lots. Helper.';

-- Makes the lot of a new credit, unless it is of the usual kind.
-- Writes: lots 0..1, accounts 0..1. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.make_lot(
    p_credit billing_data.credits, p_source text, p_priority bigint, p_expires_at timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_usual_source text := billing_data.usual_source(p_credit.transaction_type);
BEGIN
    IF p_expires_at IS NULL
        AND coalesce(p_priority, billing_data.usual_priority()) = billing_data.usual_priority()
        AND coalesce(p_source, v_usual_source) = v_usual_source
    THEN
        RETURN;
    END IF;
    INSERT INTO billing_data.lots (
        id, account_id, credit_id, origin_id, source, amount_minor, left_minor, priority,
        expires_at, created_at
    )
    VALUES (
        p_credit.id, p_credit.account_id, p_credit.id, p_credit.id,
        coalesce(p_source, v_usual_source), p_credit.amount_minor, p_credit.amount_minor,
        coalesce(p_priority, billing_data.usual_priority()), p_expires_at, p_credit.created_at
    );
    PERFORM billing_data.note_new_lots(p_credit.account_id, p_expires_at);
END
$$;
COMMENT ON FUNCTION billing_data.make_lot IS
    'Makes the lot of a credit that is not of the usual kind. Helper.';

-- Makes lots at the account that a transfer leads to, one for each lot that the transfer's first
-- entry took from, so that credits keep their kind and age.
-- Writes: lots 0..n, accounts 0..1. The caller holds both accounts.
CREATE OR REPLACE FUNCTION billing_data.move_lots(
    p_from_entry_id uuid, p_to_entry_id uuid, p_to_account_id uuid
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO billing_data.lots (
        id, account_id, credit_id, origin_id, source, amount_minor, left_minor, priority,
        expires_at, created_at
    )
    SELECT
        billing_data.new_id(), p_to_account_id, p_to_entry_id, l.origin_id, l.source,
        n.amount_minor, n.amount_minor, l.priority, l.expires_at, l.created_at
    FROM billing_data.lot_allocations AS n
    INNER JOIN billing_data.lots AS l ON l.id = n.lot_id
    WHERE n.entry_id = p_from_entry_id;
    IF FOUND THEN
        PERFORM billing_data.note_new_lots(p_to_account_id, min(l.expires_at))
        FROM billing_data.lots AS l
        WHERE l.credit_id = p_to_entry_id;
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.move_lots IS
    'Makes lots of what a transfer took of lots, where it leads. Helper.';

-- Gives back to lots what a reversal gives back of entries: of a charge, of credits that staff took
-- away, or of what the returns of a payment took. p_taken_minor is what the entries took. It is
-- given back from its end: the credits that are spent last are given back first. p_before is how
-- much of it was given back before by entries that are not among p_entry_ids. Where the account was
-- merged, each lot gets a successor at the account that has the credits now. A lot that ended
-- meanwhile gets its credits back, too; they end at once, as they would have if nothing had been
-- taken.
-- Writes: lot_allocations 0..n, lots 0..n, accounts 0..1, and what
-- billing_data.bring_up_to_date writes. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.give_back_to_lots(
    p_entry_ids uuid[], p_taken_minor bigint, p_account_id uuid, p_reversal billing_data.credits,
    p_before bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
DECLARE
    v_through bigint := p_taken_minor - p_before;
    v_from bigint := v_through - p_reversal.amount_minor;
    v_expires_at timestamptz;
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_data.lot_allocations AS n WHERE n.entry_id = ANY (p_entry_ids)
    ) THEN
        RETURN;
    END IF;
    WITH paid AS (
        SELECT
            l.id AS lot_id, sum(n.amount_minor)::bigint AS amount_minor, l.priority, l.expires_at,
            l.created_at
        FROM billing_data.lot_allocations AS n
        INNER JOIN billing_data.lots AS l ON l.id = n.lot_id
        WHERE n.entry_id = ANY (p_entry_ids)
        GROUP BY l.id
        UNION ALL
        SELECT
            NULL, (p_taken_minor - sum(n.amount_minor))::bigint,
            billing_data.usual_priority(), NULL, NULL
        FROM billing_data.lot_allocations AS n
        WHERE n.entry_id = ANY (p_entry_ids)
    ),
    placed AS (
        SELECT
            p.lot_id, p.amount_minor,
            sum(p.amount_minor) OVER (
                ORDER BY p.priority, p.expires_at, p.created_at, p.lot_id
            ) AS through
        FROM paid AS p
    ),
    back AS MATERIALIZED (
        SELECT l.*, b.amount
        FROM placed AS p
        CROSS JOIN LATERAL (
            SELECT (
                least(p.through, v_through) - greatest(p.through - p.amount_minor, v_from)
            )::bigint
        ) AS b (amount)
        INNER JOIN billing_data.lots AS l ON l.id = p.lot_id
        WHERE b.amount > 0
    ),
    noted AS (
        INSERT INTO billing_data.lot_allocations (entry_id, lot_id, amount_minor)
        SELECT p_reversal.id, b.id, -b.amount FROM back AS b WHERE b.account_id = p_account_id
    ),
    given AS (
        UPDATE billing_data.lots AS l
        SET left_minor = l.left_minor + b.amount
        FROM back AS b
        WHERE l.id = b.id AND b.account_id = p_account_id
    ),
    made AS (
        INSERT INTO billing_data.lots (
            id, account_id, credit_id, origin_id, source, amount_minor, left_minor, priority,
            expires_at, created_at
        )
        SELECT
            billing_data.new_id(), p_account_id, p_reversal.id, b.origin_id, b.source, b.amount,
            b.amount, b.priority, b.expires_at, b.created_at
        FROM back AS b
        WHERE b.account_id <> p_account_id
    )
    SELECT min(b.expires_at) INTO v_expires_at FROM back AS b HAVING count(*) > 0;
    IF FOUND THEN
        PERFORM billing_data.note_new_lots(p_account_id, v_expires_at);
        PERFORM billing_data.bring_up_to_date(ARRAY[p_account_id]);
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.give_back_to_lots IS
    'Gives back to lots what a reversal gives back. Helper.';

-- Keeps for a new hold what it holds of the account's lots. p_available is what the account had
-- available before.
-- Writes: hold_lots 0..n, lots 0..n. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.hold_lots(
    p_hold_id uuid, p_account_id uuid, p_amount bigint, p_available bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
    WITH drawn AS (
        INSERT INTO billing_data.hold_lots AS k (hold_id, lot_id, amount_minor)
        SELECT p_hold_id, d.lot_id, d.amount_minor
        FROM billing_data.plan_draw(p_account_id, p_amount, p_available, NULL) AS d
        RETURNING k.lot_id, k.amount_minor
    )
    UPDATE billing_data.lots AS l
    SET left_minor = l.left_minor - d.amount_minor
    FROM drawn AS d
    WHERE l.id = d.lot_id;
END
$$;
COMMENT ON FUNCTION billing_data.hold_lots IS
    'Keeps for a hold what it holds of the account''s lots. Helper.';

-- Keeps for new holds what they hold of the lots of these accounts.
CREATE OR REPLACE FUNCTION billing_data.take_lots_for_holds(
    p_outcomes billing.hold_outcome[], p_account_ids uuid[]
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_hold record;
BEGIN
    FOR v_hold IN
        SELECT o.hold_id, o.account_id, o.amount_minor, o.available + o.amount_minor AS left
        FROM unnest(p_outcomes) AS o
        WHERE o.account_id = ANY (p_account_ids)
            AND o.outcome = 'created' AND o.paid_with = 'paid'
        ORDER BY o.account_id, o.item
    LOOP
        PERFORM billing_data.hold_lots(
            v_hold.hold_id, v_hold.account_id, v_hold.amount_minor, v_hold.left
        );
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.take_lots_for_holds IS
    'Keeps for new holds what they hold of the lots of accounts. Helper.';

-- Gives back to lots what holds kept of them. The end of a lot that is over is then due to be
-- booked.
-- Writes: lots 0..n, accounts 0..n. The caller holds the accounts.
CREATE OR REPLACE FUNCTION billing_data.give_back_held_lots(p_hold_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
    WITH given AS (
        UPDATE billing_data.lots AS l
        SET left_minor = l.left_minor + k.amount
        FROM (
            SELECT n.lot_id, sum(n.amount_minor)::bigint AS amount
            FROM billing_data.hold_lots AS n
            WHERE n.hold_id = ANY (p_hold_ids)
            GROUP BY n.lot_id
        ) AS k
        WHERE l.id = k.lot_id
        RETURNING l.account_id, l.expires_at
    )
    UPDATE billing_data.accounts AS a
    SET due_at = least(a.due_at, g.expires_at)
    FROM (
        SELECT n.account_id, min(n.expires_at) AS expires_at FROM given AS n GROUP BY n.account_id
    ) AS g
    WHERE a.id = g.account_id AND g.expires_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION billing_data.give_back_held_lots IS
    'Gives back to lots what holds kept of them. Helper.';

-- Takes of lots what a capture spends, and gives back what else the hold kept of them. The hold is
-- passed as it was before the capture. A capture is paid with what the hold kept, in the order of
-- spending. What is captured beyond that, or of a hold that was over, is taken of the lots as a
-- charge takes it. p_available is what the account had available before.
-- Writes: lot_allocations 0..n, lots 0..n, accounts 0..1. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.capture_lots(
    p_hold billing_data.holds, p_account_id uuid, p_charge_id uuid, p_captured bigint,
    p_available bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_kept bigint := CASE WHEN p_hold.state = 'open' THEN p_hold.amount_minor ELSE 0 END;
BEGIN
    WITH kept AS MATERIALIZED (
        SELECT k.lot_id, k.amount_minor, l.priority, l.expires_at, l.created_at
        FROM billing_data.hold_lots AS k
        INNER JOIN billing_data.lots AS l ON l.id = k.lot_id
        WHERE k.hold_id = p_hold.id AND v_kept > 0
    ),
    placed AS (
        SELECT
            s.lot_id, s.amount_minor,
            sum(s.amount_minor) OVER (
                ORDER BY s.priority, s.expires_at, s.created_at, s.lot_id
            ) - s.amount_minor AS before
        FROM (
            SELECT k.* FROM kept AS k
            UNION ALL
            SELECT
                NULL, (v_kept - coalesce(sum(k.amount_minor), 0))::bigint,
                billing_data.usual_priority(), NULL, NULL
            FROM kept AS k
        ) AS s
    ),
    spent AS MATERIALIZED (
        SELECT n.lot_id, sum(n.amount_minor)::bigint AS amount_minor
        FROM (
            SELECT p.lot_id, least(p.amount_minor, p_captured - p.before)::bigint AS amount_minor
            FROM placed AS p
            WHERE p.lot_id IS NOT NULL AND p.before < p_captured
            UNION ALL
            SELECT d.lot_id, d.amount_minor
            FROM billing_data.plan_draw(
                p_account_id, p_captured - v_kept, p_available, NULL
            ) AS d
        ) AS n
        GROUP BY n.lot_id
    ),
    noted AS (
        INSERT INTO billing_data.lot_allocations (entry_id, lot_id, amount_minor)
        SELECT p_charge_id, s.lot_id, s.amount_minor FROM spent AS s
    ),
    changed AS (
        UPDATE billing_data.lots AS l
        SET left_minor = l.left_minor + n.back
        FROM (
            SELECT
                coalesce(k.lot_id, s.lot_id) AS lot_id,
                coalesce(k.amount_minor, 0) - coalesce(s.amount_minor, 0) AS back
            FROM kept AS k
            FULL JOIN spent AS s ON s.lot_id = k.lot_id
        ) AS n
        WHERE l.id = n.lot_id
        RETURNING l.has_left, l.expires_at
    )
    UPDATE billing_data.accounts AS a
    SET due_at = least(a.due_at, c.expires_at)
    FROM (SELECT min(n.expires_at) AS expires_at FROM changed AS n WHERE n.has_left) AS c
    WHERE a.id = p_account_id AND c.expires_at IS NOT NULL;
    PERFORM billing_data.note_lots(p_account_id);
END
$$;
COMMENT ON FUNCTION billing_data.capture_lots IS
    'Takes of lots what a capture spends, and gives back the rest. Helper.';

-- Settles the lots of captures, in the order of the list, and returns their outcomes. What a hold
-- gives back to a lot that is over ends at once; the outcomes then have the account's figures after
-- that. p_captures is a list of the captures of accounts that have lots, as JSON.
CREATE OR REPLACE FUNCTION billing_data.settle_lots(
    p_outcomes billing.hold_outcome[], p_captures jsonb
) RETURNS billing.hold_outcome[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_capture record;
    v_accounts uuid[] := ARRAY[]::uuid[];
    v_due uuid[];
BEGIN
    FOR v_capture IN
        SELECT c.account_id, c.charge_id, c.captured, c.available, c.hold
        FROM jsonb_to_recordset(p_captures) AS c (
            account_id uuid, charge_id uuid, captured bigint, available bigint, hold jsonb
        )
    LOOP
        PERFORM billing_data.capture_lots(
            jsonb_populate_record(NULL::billing_data.holds, v_capture.hold),
            v_capture.account_id, v_capture.charge_id, v_capture.captured, v_capture.available
        );
        v_accounts := v_accounts || v_capture.account_id;
    END LOOP;
    v_due := ARRAY(
        SELECT a.id
        FROM billing_data.accounts AS a
        WHERE a.id = ANY (v_accounts) AND a.due_at <= billing_data.clock()
    );
    IF v_due = '{}' THEN
        RETURN p_outcomes;
    END IF;
    PERFORM billing_data.bring_up_to_date(v_due);
    RETURN ARRAY(
        SELECT
            CASE
                WHEN (o.outcome).outcome = 'created' AND a.id IS NOT NULL
                    THEN jsonb_populate_record(o.outcome, jsonb_build_object(
                        'balance', a.paid_credits, 'held', a.held_credits,
                        'available', a.paid_credits - a.held_credits
                    ))
                ELSE o.outcome
            END
        FROM generate_subscripts(p_outcomes, 1) AS i (place)
        CROSS JOIN LATERAL (SELECT p_outcomes[i.place]) AS o (outcome)
        LEFT JOIN billing_data.accounts AS a
            ON a.id = ANY (v_due)
                AND a.id = billing_data.surviving_account((o.outcome).account_id)
        ORDER BY i.place
    );
END
$$;
COMMENT ON FUNCTION billing_data.settle_lots IS
    'Settles the lots of captures, and corrects their outcomes. Helper.';

-- What is left of an account's lots that are over. The account does not have these credits any
-- more, whether their end is booked or not. What holds that are over keep of such lots counts, too.
CREATE OR REPLACE FUNCTION billing_data.credits_over(p_account_id uuid, p_now timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(
        (
            SELECT sum(l.left_minor)
            FROM billing_data.lots AS l
            WHERE l.account_id = p_account_id AND l.has_left AND l.expires_at <= p_now
        ),
        0
    ) + coalesce(
        (
            SELECT sum(k.amount_minor)
            FROM billing_data.holds AS h
            INNER JOIN billing_data.hold_lots AS k ON k.hold_id = h.id
            INNER JOIN billing_data.lots AS l ON l.id = k.lot_id
            WHERE h.account_id = p_account_id AND h.state = 'open'
                AND h.expires_at <= p_now AND l.expires_at <= p_now
        ),
        0
    );
END
$$;
COMMENT ON FUNCTION billing_data.credits_over IS
    'What an account has left of lots that are over. Helper.';

-- Books the end of a lot: an entry that takes what is left of it. No person does this: the entry
-- names the owner of the functions as its writer.
-- Writes: credits 1, lot_allocations 1, lots 1, accounts 1. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.end_lot(p_lot billing_data.lots, p_now timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
BEGIN
    SELECT a.* INTO STRICT v_account
    FROM billing_data.accounts AS a
    WHERE a.id = p_lot.account_id;
    PERFORM billing_data.append_credit(
        v_account, -p_lot.left_minor, 'adjustment',
        format(
            'Expired: %s of %s, which ended at %s UTC', p_lot.left_minor,
            billing_data.count_text(p_lot.amount_minor, 'credit'),
            to_char(p_lot.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
        ),
        NULL, NULL,
        billing_data.fingerprint(billing_data.field_hash('expired', p_lot.id::text)),
        p_now, NULL, NULL, 'billing_owner', NULL, p_own_id => p_lot.id
    );
END
$$;
COMMENT ON FUNCTION billing_data.end_lot IS 'Books the end of a lot. Helper.';

-- Books the end of those lots of accounts that are over.
-- Writes: as billing_data.end_lot for each. The caller holds the accounts.
CREATE OR REPLACE FUNCTION billing_data.end_lots(p_account_ids uuid[], p_now timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_lot billing_data.lots;
BEGIN
    FOR v_lot IN
        SELECT l.*
        FROM billing_data.lots AS l
        WHERE l.account_id = ANY (p_account_ids) AND l.has_left AND l.expires_at <= p_now
        ORDER BY l.account_id, l.expires_at, l.id
    LOOP
        PERFORM billing_data.end_lot(v_lot, p_now);
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.end_lots IS 'Books the end of lots that are over. Helper.';

-- The next moment at which something must be booked for an account: a hold or a lot ends, or a
-- grant is due. NULL when nothing is to come.
CREATE OR REPLACE FUNCTION billing_data.next_due(p_account_id uuid) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN least(
        (
            SELECT min(h.expires_at)
            FROM billing_data.holds AS h
            WHERE h.account_id = p_account_id AND h.state = 'open'
        ),
        (
            SELECT min(l.expires_at)
            FROM billing_data.lots AS l
            WHERE l.account_id = p_account_id AND l.has_left
        ),
        (
            SELECT min(g.next_at)
            FROM billing_data.grant_schedules AS g
            WHERE g.account_id = p_account_id AND NOT g.is_paused
        )
    );
END
$$;
COMMENT ON FUNCTION billing_data.next_due IS
    'When something must be booked for an account next. Helper.';

-- When the first of an account's credits end, and how many of them; NULLs when none end.
CREATE OR REPLACE FUNCTION billing_data.next_expiry(
    p_account_id uuid, OUT at timestamptz, OUT amount_minor bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    SELECT l.expires_at, sum(l.left_minor) INTO at, amount_minor
    FROM billing_data.lots AS l
    WHERE l.account_id = p_account_id AND l.has_left AND l.expires_at IS NOT NULL
    GROUP BY l.expires_at
    ORDER BY l.expires_at
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION billing_data.next_expiry IS
    'When the first of an account''s credits end, and how many. Helper.';

-- Finds what is wrong with lots. A lot must have left its amount less what entries took and open
-- holds keep of it. An account's lots together must be within what it has, and has_lots must say
-- whether there are any. An entry must not take of lots more than its own amount. The end of each
-- lot must be due to be booked. It looks at the accounts that billing.verify_ledger looks at, each
-- by itself, so that one call for all accounts and calls range by range find the same.
CREATE OR REPLACE FUNCTION billing_data.find_lot_faults(
    p_account_id uuid, p_after uuid, p_through uuid
) RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH kept AS MATERIALIZED (
        SELECT h.account_id, k.lot_id, sum(k.amount_minor) AS amount
        FROM billing_data.hold_lots AS k
        INNER JOIN billing_data.holds AS h ON h.id = k.hold_id AND h.state = 'open'
        WHERE billing_data.is_in_range(h.account_id, p_account_id, p_after, p_through)
        GROUP BY h.account_id, k.lot_id
    ),
    sums AS (
        SELECT
            l.account_id, sum(l.left_minor) AS left_minor, min(l.expires_at) AS expires_at
        FROM billing_data.lots AS l
        WHERE l.has_left
            AND billing_data.is_in_range(l.account_id, p_account_id, p_after, p_through)
        GROUP BY l.account_id
    ),
    taken AS (
        SELECT
            n.entry_id, l.account_id, sum(n.amount_minor) AS amount,
            min(sign(n.amount_minor)) AS lowest, max(sign(n.amount_minor)) AS highest
        FROM billing_data.lots AS l
        INNER JOIN billing_data.lot_allocations AS n ON n.lot_id = l.id
        WHERE billing_data.is_in_range(l.account_id, p_account_id, p_after, p_through)
        GROUP BY n.entry_id, l.account_id
    )
    SELECT l.account_id, format('lot %s has not left what it should have', l.id),
        (l.amount_minor - coalesce(n.amount, 0) - coalesce(k.amount, 0))::text, l.left_minor::text
    FROM billing_data.lots AS l
    LEFT JOIN (
        SELECT a.lot_id, sum(a.amount_minor) AS amount
        FROM billing_data.lots AS o
        INNER JOIN billing_data.lot_allocations AS a ON a.lot_id = o.id
        WHERE billing_data.is_in_range(o.account_id, p_account_id, p_after, p_through)
        GROUP BY a.lot_id
    ) AS n ON n.lot_id = l.id
    LEFT JOIN kept AS k ON k.lot_id = l.id AND k.account_id = l.account_id
    WHERE billing_data.is_in_range(l.account_id, p_account_id, p_after, p_through)
        AND l.left_minor <> l.amount_minor - coalesce(n.amount, 0) - coalesce(k.amount, 0)
    UNION ALL
    SELECT a.id, 'the lots have more left than is available',
        (a.paid_credits - a.held_credits)::text, s.left_minor::text
    FROM sums AS s
    INNER JOIN billing_data.accounts AS a ON a.id = s.account_id
    WHERE s.left_minor > a.paid_credits - a.held_credits
    UNION ALL
    SELECT a.id, 'the account does not say whether it has lots',
        (NOT a.has_lots)::text, a.has_lots::text
    FROM billing_data.accounts AS a
    LEFT JOIN sums AS s ON s.account_id = a.id
    LEFT JOIN (SELECT DISTINCT k.account_id FROM kept AS k) AS k ON k.account_id = a.id
    WHERE billing_data.is_in_range(a.id, p_account_id, p_after, p_through)
        AND a.has_lots <> (num_nonnulls(s.account_id, k.account_id) > 0)
    UNION ALL
    SELECT s.account_id, 'a lot ends and nothing will book it', 'due at ' || s.expires_at,
        'due at ' || a.due_at
    FROM sums AS s
    INNER JOIN billing_data.accounts AS a ON a.id = s.account_id
    WHERE s.expires_at IS NOT NULL AND (a.due_at <= s.expires_at) IS NOT TRUE
    UNION ALL
    SELECT t.account_id, format('entry %s took of lots another amount than it could', t.entry_id),
        coalesce(c.amount_minor, -k.amount_minor)::text, t.amount::text
    FROM taken AS t
    LEFT JOIN billing_data.charges AS c ON c.id = t.entry_id
    LEFT JOIN billing_data.credits AS k ON k.id = t.entry_id
    WHERE CASE
            WHEN c.id IS NOT NULL
                THEN c.paid_with = 'paid' AND t.lowest = 1 AND t.amount <= c.amount_minor
            ELSE t.lowest = t.highest AND t.lowest = -sign(k.amount_minor)
                AND abs(t.amount) <= abs(k.amount_minor)
        END IS NOT TRUE
    UNION ALL
    SELECT c.account_id, format('credit %s made lots of more than it was', c.id),
        c.amount_minor::text, sum(l.amount_minor)::text
    FROM billing_data.lots AS l
    INNER JOIN billing_data.credits AS c ON c.id = l.credit_id
    WHERE billing_data.is_in_range(l.account_id, p_account_id, p_after, p_through)
    GROUP BY c.id, l.account_id
    HAVING sum(l.amount_minor) > c.amount_minor OR l.account_id <> c.account_id
    UNION ALL
    SELECT l.account_id, format('lot %s paid for another account', l.id), l.account_id::text,
        coalesce(c.account_id, k.account_id)::text
    FROM billing_data.lot_allocations AS n
    INNER JOIN billing_data.lots AS l ON l.id = n.lot_id
    LEFT JOIN billing_data.charges AS c ON c.id = n.entry_id
    LEFT JOIN billing_data.credits AS k ON k.id = n.entry_id
    WHERE billing_data.is_in_range(l.account_id, p_account_id, p_after, p_through)
        AND coalesce(c.account_id, k.account_id) IS DISTINCT FROM l.account_id;
END
$$;
COMMENT ON FUNCTION billing_data.find_lot_faults IS
    'Finds lots that do not agree with what was taken of them. Helper.';

-- The steps by which an account's pool changed up to the entry p_through: for each credit what it
-- added (change, less than 0 where it took), the credit that it took back (own_id), and what
-- charges spent of the pool until the next credit. The first step is what the books began with.
CREATE OR REPLACE FUNCTION billing_data.pool_steps(p_account_id uuid, p_through bigint)
RETURNS TABLE (ledger_version bigint, id uuid, own_id uuid, change bigint, spent bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH opening AS MATERIALIZED (
        SELECT coalesce(max(o.ledger_version), 0) AS ledger_version,
            coalesce(max(o.paid_credits), 0) AS paid_credits
        FROM billing_data.ledger_openings AS o
        WHERE o.account_id = p_account_id
    ),
    of_lots AS MATERIALIZED (
        SELECT n.entry_id, sum(n.amount_minor) AS amount
        FROM billing_data.lots AS l
        INNER JOIN billing_data.lot_allocations AS n ON n.lot_id = l.id
        WHERE l.account_id = p_account_id
        GROUP BY n.entry_id
    ),
    lots AS MATERIALIZED (
        SELECT l.credit_id, sum(l.amount_minor) AS amount
        FROM billing_data.lots AS l
        WHERE l.account_id = p_account_id
        GROUP BY l.credit_id
    ),
    entries AS (
        SELECT o.ledger_version, NULL::uuid AS id, NULL::uuid AS own_id,
            o.paid_credits::numeric AS change, 0::numeric AS spent, true AS is_credit
        FROM opening AS o
        UNION ALL
        SELECT
            c.ledger_version, c.id,
            coalesce(c.corrects_credit_id, p.credit_id, m.id),
            c.amount_minor + coalesce(t.amount, 0) - coalesce(l.amount, 0), 0, true
        FROM billing_data.credits AS c
        LEFT JOIN of_lots AS t ON t.entry_id = c.id
        LEFT JOIN lots AS l ON l.credit_id = c.id
        LEFT JOIN billing_data.payment_return_credits AS n ON n.credit_id = c.id
        LEFT JOIN billing_data.payment_returns AS r
            ON r.account_id = n.account_id AND r.provider = n.provider
                AND r.return_id = n.return_id
        LEFT JOIN billing_data.purchases AS p
            ON p.account_id = r.account_id AND p.id = r.purchase_id
        LEFT JOIN billing_data.account_merges AS u ON u.undo_id = c.transfer_id
        LEFT JOIN billing_data.credits AS m
            ON m.account_id = p_account_id AND m.transfer_id = u.id
        WHERE c.account_id = p_account_id
            AND c.ledger_version > (SELECT o.ledger_version FROM opening AS o)
            AND c.ledger_version <= p_through AND c.ledger_version > 0
        UNION ALL
        SELECT c.ledger_version, NULL, NULL, 0, c.amount_minor - coalesce(t.amount, 0), false
        FROM billing_data.charges AS c
        LEFT JOIN of_lots AS t ON t.entry_id = c.id
        WHERE c.account_id = p_account_id AND c.paid_with = 'paid'
            AND c.ledger_version > (SELECT o.ledger_version FROM opening AS o)
            AND c.ledger_version <= p_through AND c.ledger_version > 0
    )
    SELECT
        min(g.ledger_version), (array_agg(g.id) FILTER (WHERE g.is_credit))[1],
        (array_agg(g.own_id) FILTER (WHERE g.is_credit))[1], sum(g.change)::bigint,
        sum(g.spent)::bigint
    FROM (
        SELECT e.*, count(*) FILTER (WHERE e.is_credit) OVER (ORDER BY e.ledger_version) AS step
        FROM entries AS e
    ) AS g
    GROUP BY g.step
$$;
COMMENT ON FUNCTION billing_data.pool_steps IS
    'The steps by which an account''s pool changed. Helper.';

-- The credits in an account's pool as they came in, and what is left of each after the entry
-- p_through, the oldest first. What is spent of the pool is spent of the oldest of its credits;
-- what is taken back is taken of the credit itself as far as it is left. This follows from the
-- account's entries alone, which never change. What the account's books began with has no
-- credit_id. It reads all entries of the account.
CREATE OR REPLACE FUNCTION billing_data.walk_pool(p_account_id uuid, p_through bigint)
RETURNS TABLE (credit_id uuid, amount_minor bigint, left_minor bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_step record;
    v_ids uuid[] := ARRAY[]::uuid[];
    v_amounts bigint[] := ARRAY[]::bigint[];
    v_lefts bigint[] := ARRAY[]::bigint[];
    v_first integer := 1;  -- nothing is left of what stands before
    v_place integer;
    v_out bigint;
    v_part bigint;
BEGIN
    FOR v_step IN
        SELECT s.id, s.own_id, s.change, s.spent
        FROM billing_data.pool_steps(p_account_id, p_through) AS s
        ORDER BY s.ledger_version
    LOOP
        IF v_step.change > 0 THEN
            v_ids := v_ids || v_step.id;
            v_amounts := v_amounts || v_step.change;
            v_lefts := v_lefts || v_step.change;
        ELSIF v_step.change < 0 THEN
            v_out := -v_step.change;
            v_place := array_position(v_ids, v_step.own_id);
            IF v_step.own_id IS NOT NULL AND v_place IS NOT NULL THEN
                v_part := least(v_out, v_lefts[v_place]);
                v_lefts[v_place] := v_lefts[v_place] - v_part;
                v_out := v_out - v_part;
            END IF;
        ELSE
            v_out := 0;
        END IF;
        -- The first lots now pay for what is left of this step's own change, and for what charges
        -- spent between this step and the next one.
        v_out := CASE WHEN v_step.change > 0 THEN 0 ELSE v_out END + v_step.spent;
        WHILE v_out > 0 AND v_first <= cardinality(v_lefts) LOOP
            v_part := least(v_out, v_lefts[v_first]);
            v_lefts[v_first] := v_lefts[v_first] - v_part;
            v_out := v_out - v_part;
            IF v_lefts[v_first] = 0 THEN
                v_first := v_first + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN QUERY
    SELECT u.id, u.amount, u.remaining
    FROM unnest(v_ids, v_amounts, v_lefts) WITH ORDINALITY AS u (id, amount, remaining, place)
    ORDER BY u.place;
END
$$;
COMMENT ON FUNCTION billing_data.walk_pool IS
    'What is left of each credit in an account''s pool after an entry. Helper.';

-- What charges were paid with of an account's pool: for each of the entries p_versions the credits
-- and what each paid. Between two credits the charges spend the pool in the order of the ledger, so
-- the place of a charge among them tells which credits it spent.
CREATE OR REPLACE FUNCTION billing_data.pool_payments(p_account_id uuid, p_versions bigint[])
RETURNS TABLE (charge_id uuid, credit_id uuid, amount_minor bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS MATERIALIZED (
        SELECT
            c.id, c.ledger_version, (
                SELECT max(k.ledger_version)
                FROM billing_data.credits AS k
                WHERE k.account_id = p_account_id AND k.ledger_version > 0
                    AND k.ledger_version < c.ledger_version
            ) AS credit_version
        FROM billing_data.charges AS c
        WHERE c.account_id = p_account_id AND c.ledger_version = ANY (p_versions)
            AND c.ledger_version > 0
    ),
    spent AS (  -- of the pool, since the credit before
        SELECT
            q.id, g.credit_version, q.ledger_version, s.amount, s.before
        FROM (
            SELECT a.credit_version, max(a.ledger_version) AS newest
            FROM asked AS a
            GROUP BY a.credit_version
        ) AS g
        CROSS JOIN LATERAL (
            SELECT
                c.id, c.ledger_version, n.amount,
                sum(n.amount) OVER (ORDER BY c.ledger_version) - n.amount AS before
            FROM billing_data.charges AS c
            CROSS JOIN LATERAL (
                SELECT c.amount_minor - coalesce(sum(t.amount_minor), 0) AS amount
                FROM billing_data.lot_allocations AS t
                WHERE t.entry_id = c.id
            ) AS n
            WHERE c.account_id = p_account_id AND c.paid_with = 'paid'
                AND c.ledger_version > coalesce(g.credit_version, 0)
                AND c.ledger_version <= g.newest AND c.ledger_version > 0
        ) AS s
        INNER JOIN asked AS q ON q.id = s.id
    ),
    credits AS MATERIALIZED (
        SELECT
            g.credit_version, w.credit_id, w.left_minor,
            sum(w.left_minor) OVER (PARTITION BY g.credit_version ORDER BY w.place) - w.left_minor
                AS before
        FROM (SELECT DISTINCT a.credit_version FROM asked AS a) AS g
        CROSS JOIN LATERAL billing_data.walk_pool(p_account_id, coalesce(g.credit_version, 0))
            WITH ORDINALITY AS w (credit_id, amount_minor, left_minor, place)
    )
    SELECT
        s.id, k.credit_id,
        (
            least(s.before + s.amount, k.before + k.left_minor) - greatest(s.before, k.before)
        )::bigint
    FROM spent AS s
    INNER JOIN credits AS k
        ON k.credit_version IS NOT DISTINCT FROM s.credit_version
            AND k.before < s.before + s.amount AND s.before < k.before + k.left_minor
    WHERE s.amount > 0 AND k.left_minor > 0
$$;
COMMENT ON FUNCTION billing_data.pool_payments IS
    'What charges were paid with of an account''s pool. Helper.';

-- An account's credits, each with its source and with what is left of it, in the order in which
-- they are spent; with p_all also those of which nothing is left. Credits of the usual kind are one
-- pool (in_pool): what is left of each follows from the ledger, the oldest being spent first. Those
-- that the account's books began with have no lot_id. left_minor includes what open holds keep
-- (held_minor); a lot that is over has nothing left, whether that is booked or not. It reads all of
-- the account's entries, unless p_pool is false, which leaves the pool out.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.list_lots(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.list_lots(
    p_account_id uuid,
    p_all boolean DEFAULT false,
    p_pool boolean DEFAULT true,
    p_limit bigint DEFAULT 200,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    lot_id uuid,
    credit_id uuid,
    source text,
    in_pool boolean,
    amount_minor bigint,
    left_minor bigint,
    held_minor bigint,
    priority bigint,
    expires_at timestamptz,
    created_at timestamptz,
    description text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_account billing_data.accounts;
    v_now timestamptz := billing_data.clock();
    v_held_of_lots bigint;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, 0, 501);
    PERFORM billing_data.require(p_all IS NOT NULL, 'p_all', 'it must be true or false');
    PERFORM billing_data.require(p_pool IS NOT NULL, 'p_pool', 'it must be true or false');
    SELECT a.* INTO v_account
    FROM billing_data.accounts AS a
    WHERE a.id = billing_data.surviving_account(p_account_id);
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    SELECT coalesce(sum(k.amount_minor), 0) INTO STRICT v_held_of_lots
    FROM billing_data.holds AS h
    INNER JOIN billing_data.hold_lots AS k ON k.hold_id = h.id
    WHERE h.account_id = v_account.id AND h.state = 'open' AND h.expires_at > v_now;
    RETURN QUERY
    WITH lots AS (
        SELECT
            l.id, l.credit_id, l.source, l.amount_minor, l.priority, l.expires_at, l.created_at,
            coalesce(k.held, 0) AS held,
            CASE WHEN l.expires_at <= v_now THEN 0 ELSE l.left_minor + coalesce(k.ended, 0) END
            + coalesce(k.held, 0) AS remaining
        FROM billing_data.lots AS l
        LEFT JOIN LATERAL (
            SELECT
                sum(n.amount_minor) FILTER (WHERE h.expires_at > v_now) AS held,
                sum(n.amount_minor) FILTER (WHERE h.expires_at <= v_now) AS ended
            FROM billing_data.holds AS h
            INNER JOIN billing_data.hold_lots AS n ON n.hold_id = h.id AND n.lot_id = l.id
            WHERE h.account_id = v_account.id AND h.state = 'open'
        ) AS k ON true
        WHERE l.account_id = v_account.id
    ),
    pool AS (
        SELECT
            w.credit_id, w.amount_minor, w.left_minor,
            greatest(least(
                w.left_minor,
                (s.standing).held - v_held_of_lots
                - coalesce(sum(w.left_minor) OVER (
                    ORDER BY w.place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ), 0)
            ), 0) AS held
        FROM billing_data.walk_pool(
            v_account.id, CASE WHEN p_pool THEN v_account.ledger_version ELSE 0 END
        ) WITH ORDINALITY
            AS w (credit_id, amount_minor, left_minor, place)
        CROSS JOIN (SELECT billing_data.standing(v_account) AS standing) AS s
        WHERE p_pool
    )
    SELECT
        n.id, n.credit_id, n.source, n.in_pool, n.amount_minor, n.remaining::bigint,
        n.held::bigint, n.priority::bigint, n.expires_at, n.created_at, n.description::text
    FROM (
        SELECT
            l.id, l.credit_id, l.source, false AS in_pool, l.amount_minor, l.remaining, l.held,
            l.priority, l.expires_at, l.created_at, c.description
        FROM lots AS l
        LEFT JOIN billing_data.credits AS c ON c.id = l.credit_id
        UNION ALL
        SELECT
            p.credit_id, p.credit_id,
            CASE WHEN c.corrects_charge_id IS NOT NULL THEN 'refund'
                ELSE coalesce(billing_data.usual_source(c.transaction_type), 'grant') END,
            true, p.amount_minor, p.left_minor, p.held, billing_data.usual_priority(),
            NULL, c.created_at, c.description
        FROM pool AS p
        LEFT JOIN billing_data.credits AS c ON c.id = p.credit_id
    ) AS n
    WHERE p_all OR n.remaining > 0
    ORDER BY n.priority, n.expires_at, n.in_pool, n.created_at NULLS FIRST, n.id
    LIMIT p_limit;
END
$$;
COMMENT ON FUNCTION billing.list_lots IS
    'Lists an account''s credits with what is left of each. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_lots TO billing_server, billing_dba;

-- Which credits paid for charges: a row for each charge and credit, the newest charge first. It is
-- about one charge (p_charge_id), or about p_limit paid charges of an account, those before the
-- entry p_before where that is given. What was paid of the pool follows from the ledger as in
-- billing.list_lots. A free use is paid by no credit. It reads the account's entries up to there.
-- Errors: actor errors, invalid_argument, account_not_found, charge_not_found.
-- Example: SELECT * FROM billing.list_allocations(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.list_allocations(
    p_account_id uuid DEFAULT NULL,
    p_charge_id uuid DEFAULT NULL,
    p_before bigint DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    charge_id uuid,
    ledger_version bigint,
    created_at timestamptz,
    charge_minor bigint,
    lot_id uuid,
    credit_id uuid,
    in_pool boolean,
    amount_minor bigint,
    source text,
    expires_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_account_id uuid;
    v_version bigint;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, 0, 501);
    PERFORM billing_data.require(
        num_nonnulls(p_account_id, p_charge_id) = 1, 'p_account_id',
        'either an account or a charge is given'
    );
    IF p_charge_id IS NOT NULL THEN
        SELECT c.account_id, c.ledger_version INTO v_account_id, v_version
        FROM billing_data.charges AS c
        WHERE c.id = p_charge_id;
        IF NOT FOUND THEN
            PERFORM billing_data.raise_error(
                'charge_not_found', jsonb_build_object('charge_id', p_charge_id)
            );
        END IF;
    ELSE
        SELECT a.id INTO v_account_id
        FROM billing_data.accounts AS a
        WHERE a.id = billing_data.surviving_account(p_account_id);
        IF NOT FOUND THEN
            PERFORM billing_data.raise_error('account_not_found');
        END IF;
    END IF;
    RETURN QUERY
    WITH page AS (
        SELECT
            c.id, c.ledger_version, c.created_at, c.amount_minor
        FROM billing_data.charges AS c
        WHERE c.account_id = v_account_id AND c.paid_with = 'paid' AND c.ledger_version > 0
            AND (v_version IS NULL OR c.ledger_version = v_version)
            AND (p_before IS NULL OR c.ledger_version < p_before)
        ORDER BY c.ledger_version DESC
        LIMIT p_limit
    ),
    paid AS (
        SELECT n.entry_id, n.lot_id, l.credit_id, false AS in_pool, n.amount_minor, l.source,
            l.expires_at, l.priority
        FROM page AS p
        INNER JOIN billing_data.lot_allocations AS n ON n.entry_id = p.id
        INNER JOIN billing_data.lots AS l ON l.id = n.lot_id
        UNION ALL
        SELECT
            w.charge_id, w.credit_id, w.credit_id, true, w.amount_minor,
            CASE WHEN c.corrects_charge_id IS NOT NULL THEN 'refund'
                ELSE coalesce(billing_data.usual_source(c.transaction_type), 'grant') END,
            NULL, billing_data.usual_priority()
        FROM billing_data.pool_payments(v_account_id, ARRAY(SELECT p.ledger_version FROM page AS p))
            AS w
        LEFT JOIN billing_data.credits AS c ON c.id = w.credit_id
    )
    SELECT
        p.id, p.ledger_version, p.created_at, p.amount_minor, n.lot_id, n.credit_id, n.in_pool,
        n.amount_minor, n.source, n.expires_at
    FROM page AS p
    INNER JOIN paid AS n ON n.entry_id = p.id
    ORDER BY p.ledger_version DESC, n.priority, n.expires_at, n.in_pool, n.lot_id;
END
$$;
COMMENT ON FUNCTION billing.list_allocations IS
    'Lists which credits paid for charges. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_allocations TO billing_server, billing_dba;
