-- Schedules of grants: credits that are given at a set time, once (a credit with effective_at) or
-- every day, week or month. A grant is due from its moment on, whether it is booked or not; it is
-- booked under the account's lock before anything else is decided, once for each period. A grant
-- whose moment was missed is made later, unless its credits would be over already: without
-- rollover, what is left of a grant ends when the next one comes, so only the newest one counts.

-- The first moment after p_after at which a schedule gives: 00:00 UTC of each day, of the weekday
-- p_day (1 is Monday), or of the day p_day of the month. A month that has no such day uses its last
-- day. NULL for a schedule that gives once.
CREATE OR REPLACE FUNCTION billing_data.next_grant(
    p_after timestamptz, p_repeat text, p_day bigint
) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_after timestamp := p_after AT TIME ZONE 'UTC';
    v_first date;
    v_next timestamp;
BEGIN
    IF p_repeat = 'daily' THEN
        v_next := date_trunc('day', v_after) + interval '1 day';
    ELSIF p_repeat = 'weekly' THEN
        v_next := date_trunc('week', v_after) + (p_day - 1) * interval '1 day';
        IF v_next <= v_after THEN
            v_next := v_next + interval '7 days';
        END IF;
    ELSIF p_repeat = 'monthly' THEN
        v_first := date_trunc('month', v_after);
        LOOP
            v_next := least(
                v_first + (p_day - 1) * interval '1 day',
                v_first + interval '1 month' - interval '1 day'
            );
            EXIT WHEN v_next > v_after;
            v_first := v_first + interval '1 month';
        END LOOP;
    END IF;
    RETURN v_next AT TIME ZONE 'UTC';
END
$$;
COMMENT ON FUNCTION billing_data.next_grant IS
    'The first moment after another at which a schedule gives. Helper.';

-- The grants of a schedule that are due and not booked, in their order. due_at is the grant's
-- moment; expires_at is when its credits end. is_made is true when that is still to come, so that
-- the grant is made. next_at and grants_left are the schedule's next moment and remaining grants
-- after it.
CREATE OR REPLACE FUNCTION billing_data.due_grants(
    p_schedule billing_data.grant_schedules, p_now timestamptz
) RETURNS TABLE (
    due_at timestamptz, expires_at timestamptz, is_made boolean, next_at timestamptz,
    grants_left bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_following timestamptz;
BEGIN
    next_at := p_schedule.next_at;
    grants_left := p_schedule.grants_left;
    WHILE next_at <= p_now AND NOT p_schedule.is_paused LOOP
        due_at := next_at;
        v_following := billing_data.next_grant(due_at, p_schedule.repeat, p_schedule.day);
        expires_at := least(
            p_schedule.expires_at, due_at + p_schedule.lasts_days * interval '24 hours',
            CASE WHEN NOT p_schedule.rollover THEN v_following END
        );
        is_made := (expires_at > p_now) IS NOT FALSE;
        grants_left := grants_left - 1;
        next_at := CASE
            WHEN grants_left = 0 OR v_following >= p_schedule.ends_at THEN NULL
            ELSE v_following
        END;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.due_grants IS
    'The grants of a schedule that are due and not booked. Helper.';

-- How many credits an account gets by grants that are due and not booked.
CREATE OR REPLACE FUNCTION billing_data.credits_due(p_account_id uuid, p_now timestamptz)
RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(g.amount_minor) FILTER (WHERE d.is_made), 0)
        FROM billing_data.grant_schedules AS g
        CROSS JOIN LATERAL billing_data.due_grants(g, p_now) AS d
        WHERE g.account_id = p_account_id AND g.next_at <= p_now AND NOT g.is_paused
    );
END
$$;
COMMENT ON FUNCTION billing_data.credits_due IS
    'How many credits due grants give an account that are not booked. Helper.';

-- Books the grants of a schedule that are due. The credits name as their writer whoever set the
-- schedule last. A grant that the balance has no room for is left out.
-- Writes: grant_schedules 1; for each grant credits 1, accounts 1, scheduled_grants 1, lots 0..1.
-- The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.make_grants(
    p_schedule billing_data.grant_schedules, p_now timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_due record;
    v_account billing_data.accounts;
    v_credit billing_data.credits;
    v_next_at timestamptz;
    v_grants_left bigint;
BEGIN
    FOR v_due IN
        SELECT d.due_at, d.expires_at, d.is_made, d.next_at, d.grants_left
        FROM billing_data.due_grants(p_schedule, p_now) AS d
        ORDER BY d.due_at
    LOOP
        SELECT a.* INTO STRICT v_account
        FROM billing_data.accounts AS a
        WHERE a.id = p_schedule.account_id;
        IF v_due.is_made
            AND v_account.paid_credits <= billing_data.max_amount() - p_schedule.amount_minor
        THEN
            v_credit := billing_data.append_credit(
                v_account, p_schedule.amount_minor, p_schedule.transaction_type,
                p_schedule.description, NULL, NULL,
                billing_data.fingerprint(
                    billing_data.field_hash('schedule', p_schedule.id::text)
                    # billing_data.field_hash(
                        'due_at', extract(EPOCH FROM v_due.due_at)::text
                    )
                ),
                p_now, p_schedule.api_key_id, p_schedule.admin_user_id, p_schedule.database_role,
                NULL,
                p_credit_id => CASE WHEN p_schedule.repeat = 'once' THEN p_schedule.id END
            );
            PERFORM billing_data.make_lot(
                v_credit, p_schedule.source, p_schedule.priority, v_due.expires_at
            );
            INSERT INTO billing_data.scheduled_grants (schedule_id, due_at, credit_id, created_at)
            VALUES (p_schedule.id, v_due.due_at, v_credit.id, p_now);
        END IF;
        v_next_at := v_due.next_at;
        v_grants_left := v_due.grants_left;
    END LOOP;
    UPDATE billing_data.grant_schedules AS g
    SET next_at = v_next_at, grants_left = v_grants_left
    WHERE g.id = p_schedule.id;
END
$$;
COMMENT ON FUNCTION billing_data.make_grants IS
    'Books the grants of a schedule that are due. Helper.';

-- Books the grants that are due for accounts. The caller holds them.
-- Writes: as billing_data.make_grants for each schedule.
CREATE OR REPLACE FUNCTION billing_data.make_due_grants(p_account_ids uuid[], p_now timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_schedule billing_data.grant_schedules;
BEGIN
    FOR v_schedule IN
        SELECT g.*
        FROM billing_data.grant_schedules AS g
        WHERE g.account_id = ANY (p_account_ids) AND g.next_at <= p_now AND NOT g.is_paused
        ORDER BY g.account_id, g.next_at, g.id
    LOOP
        PERFORM billing_data.make_grants(v_schedule, p_now);
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.make_due_grants IS
    'Books the grants that are due for accounts. Helper.';

-- The credit that was scheduled for later under an idempotency key of these accounts, as if its
-- entry were written, with the present balance; an empty row when there is none.
CREATE OR REPLACE FUNCTION billing_data.coming_credit(p_path uuid[], p_idempotency_key text)
RETURNS billing_data.credits
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credit billing_data.credits;
BEGIN
    SELECT
        g.account_id, g.id, g.amount_minor, g.transaction_type, g.description, g.idempotency_key,
        g.request_fingerprint, g.created_at, a.currency, a.paid_credits, a.paid_credits
    INTO
        v_credit.account_id, v_credit.id, v_credit.amount_minor, v_credit.transaction_type,
        v_credit.description, v_credit.idempotency_key, v_credit.request_fingerprint,
        v_credit.created_at, v_credit.currency, v_credit.balance_before, v_credit.balance_after
    FROM billing_data.grant_schedules AS g
    INNER JOIN billing_data.accounts AS a ON a.id = g.account_id
    WHERE g.made_for = ANY (p_path) AND g.idempotency_key = p_idempotency_key
    ORDER BY array_position(p_path, g.made_for)
    LIMIT 1;
    RETURN v_credit;
END
$$;
COMMENT ON FUNCTION billing_data.coming_credit IS
    'The credit that was scheduled for later under an idempotency key. Helper.';

-- Makes a schedule that gives one credit at p_effective_at, and returns the credit as if its entry
-- were written, with the present balance.
-- Writes: grant_schedules 1, accounts 1; admin_audit_logs 1 where staff or a database role calls.
-- The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.schedule_credit(
    p_account billing_data.accounts,
    p_credit_id uuid,
    p_amount_minor bigint,
    p_transaction_type text,
    p_description text,
    p_idempotency_key text,
    p_fingerprint bytea,
    p_source text,
    p_priority bigint,
    p_expires_at timestamptz,
    p_effective_at timestamptz,
    p_actor billing_data.actor
) RETURNS billing_data.credits
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
    v_credit billing_data.credits;
BEGIN
    INSERT INTO billing_data.grant_schedules (
        id, account_id, made_for, amount_minor, transaction_type, source, priority, description,
        repeat, rollover, expires_at, next_at, idempotency_key, request_fingerprint, api_key_id,
        admin_user_id, database_role, created_at, updated_at
    )
    VALUES (
        p_credit_id, p_account.id, p_account.id, p_amount_minor, p_transaction_type, p_source,
        p_priority, p_description, 'once', true, p_expires_at, p_effective_at, p_idempotency_key,
        p_fingerprint, p_actor.api_key_id, p_actor.admin_user_id, p_actor.database_role, v_now,
        v_now
    );
    PERFORM billing_data.note_schedules(p_account.id);
    IF p_actor.api_key_id IS NULL THEN
        PERFORM billing_data.write_audit(
            'account.set_grant_schedule', 'account', p_account.id::text,
            jsonb_build_object(
                'schedule_id', p_credit_id, 'amount', p_amount_minor, 'repeat', 'once',
                'next_at', billing_data.instant_text(p_effective_at)
            ) || billing_data.kind_told(p_source, p_priority, p_expires_at),
            left(p_description, billing_data.most('reason')), p_actor
        );
    END IF;
    v_credit.id := p_credit_id;
    v_credit.account_id := p_account.id;
    v_credit.amount_minor := p_amount_minor;
    v_credit.currency := p_account.currency;
    v_credit.balance_before := p_account.paid_credits;
    v_credit.balance_after := p_account.paid_credits;
    v_credit.transaction_type := p_transaction_type;
    v_credit.description := p_description;
    v_credit.created_at := v_now;
    RETURN v_credit;
END
$$;
COMMENT ON FUNCTION billing_data.schedule_credit IS
    'Makes a schedule that gives one credit at a set time. Helper.';

-- Records when something is next due for an account, after one of its schedules changed, and books
-- what is due now.
-- Writes: accounts 1, and what billing_data.bring_up_to_date writes. The caller holds the account.
CREATE OR REPLACE FUNCTION billing_data.note_schedules(p_account_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE billing_data.accounts AS a
    SET due_at = billing_data.next_due(a.id)
    WHERE a.id = p_account_id;
    PERFORM billing_data.bring_up_to_date(ARRAY[p_account_id]);
END
$$;
COMMENT ON FUNCTION billing_data.note_schedules IS
    'Records when something is next due for an account. Helper.';

-- Moves the schedules of an account that is merged to the one that stays. When the merge is undone,
-- the schedules that were made for the merged account or for accounts merged into it move back.
-- Writes: grant_schedules 0..n, accounts 2. The caller holds both accounts.
CREATE OR REPLACE FUNCTION billing_data.move_schedules(
    p_from_id uuid, p_to_id uuid, p_made_for uuid[]
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE billing_data.grant_schedules AS g
    SET account_id = p_to_id
    WHERE g.account_id = p_from_id AND (p_made_for IS NULL OR g.made_for = ANY (p_made_for));
    IF FOUND THEN
        UPDATE billing_data.accounts AS a
        SET due_at = billing_data.next_due(a.id)
        WHERE a.id IN (p_from_id, p_to_id);
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.move_schedules IS
    'Moves schedules of grants where an account is merged, or back. Helper.';

-- Ends the schedules of accounts whose person is erased, and erases their texts. Returns how many
-- schedules those were. The caller holds the accounts.
CREATE OR REPLACE FUNCTION billing_data.erase_schedules(p_account_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_erased bigint;
BEGIN
    UPDATE billing_data.grant_schedules AS g
    SET next_at = NULL, description = 'erased', reason = 'erased', idempotency_key = NULL,
        request_fingerprint = billing_data.fingerprint(0)
    WHERE (g.account_id = ANY (p_account_ids) OR g.made_for = ANY (p_account_ids))
        AND g.request_fingerprint <> billing_data.fingerprint(0);
    GET DIAGNOSTICS v_erased = ROW_COUNT;
    RETURN v_erased;
END
$$;
COMMENT ON FUNCTION billing_data.erase_schedules IS
    'Ends and erases the schedules of grants of accounts. Helper.';

-- Refuses arguments that make no schedule, and names the one at fault.
-- Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.require_schedule(
    p_amount bigint,
    p_repeat text,
    p_day bigint,
    p_rollover boolean,
    p_lasts_days bigint,
    p_starts_at timestamptz,
    p_ends_at timestamptz,
    p_grants bigint
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(p_amount > 0, 'p_amount', 'it must be greater than 0');
    PERFORM billing_data.require(
        p_repeat IN ('once', 'daily', 'weekly', 'monthly'), 'p_repeat',
        'it must be once, daily, weekly or monthly'
    );
    PERFORM billing_data.require(
        CASE p_repeat
            WHEN 'weekly' THEN coalesce(p_day BETWEEN 1 AND 7, true)
            WHEN 'monthly' THEN coalesce(p_day BETWEEN 1 AND 31, true)
            ELSE p_day IS NULL
        END,
        'p_day', 'it must be 1 to 31 for a month, 1 (Monday) to 7 for a week, and absent otherwise'
    );
    PERFORM billing_data.require(p_rollover IS NOT NULL, 'p_rollover', 'it must be true or false');
    PERFORM billing_data.require(
        coalesce(p_lasts_days BETWEEN 1 AND 3650, true), 'p_lasts_days', 'it must be 1 to 3650'
    );
    PERFORM billing_data.require_moment(p_starts_at, 'p_starts_at');
    PERFORM billing_data.require_moment(p_ends_at, 'p_ends_at');
    PERFORM billing_data.require(
        coalesce(p_grants > 0, true), 'p_grants', 'it must be greater than 0'
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_schedule IS
    'Raises invalid_argument for arguments that make no schedule of grants. Helper.';

-- A schedule of an account; refused when it has nothing more to give. The caller holds the account.
-- Errors: grant_schedule_not_found, grant_schedule_over.
CREATE OR REPLACE FUNCTION billing_data.find_schedule(p_schedule_id uuid, p_account_id uuid)
RETURNS billing_data.grant_schedules
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_schedule billing_data.grant_schedules;
BEGIN
    SELECT g.* INTO v_schedule
    FROM billing_data.grant_schedules AS g
    WHERE g.id = p_schedule_id AND g.account_id = p_account_id;
    IF v_schedule.id IS NULL OR v_schedule.next_at IS NULL THEN
        PERFORM billing_data.raise_error(
            CASE WHEN v_schedule.id IS NULL THEN 'grant_schedule_not_found'
                ELSE 'grant_schedule_over' END,
            jsonb_build_object('schedule_id', p_schedule_id)
        );
    END IF;
    RETURN v_schedule;
END
$$;
COMMENT ON FUNCTION billing_data.find_schedule IS
    'A schedule of grants that still has something to give. Helper.';

-- The same for a schedule of any account; locks the account and brings it up to date.
-- Locks: the account. Errors: grant_schedule_not_found, grant_schedule_over.
CREATE OR REPLACE FUNCTION billing_data.lock_schedule(p_schedule_id uuid)
RETURNS billing_data.grant_schedules
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
BEGIN
    v_account := billing_data.lock_account((
        SELECT g.account_id FROM billing_data.grant_schedules AS g WHERE g.id = p_schedule_id
    ));
    RETURN billing_data.find_schedule(p_schedule_id, v_account.id);
END
$$;
COMMENT ON FUNCTION billing_data.lock_schedule IS
    'A schedule of grants whose account is locked. Helper.';

-- Gives an account credits again and again: p_amount at 00:00 UTC of every day, of every week's
-- p_day (1 is Monday) or of every month's p_day (a shorter month uses its last day). What is left
-- of a grant ends when the next one comes; with p_rollover it is kept. p_lasts_days ends it in any
-- case after that many days. The first grant is the first one after p_starts_at (by default now);
-- the last one is the last before p_ends_at, or the p_grants-th. With p_repeat once the schedule
-- gives at p_starts_at. With p_schedule_id this schedule is changed as a whole: an argument that is
-- left out has its default, as for a new schedule. A schedule's writer is whoever changed it last.
-- When the idempotency key was used before for the same schedule of the account, nothing is done
-- and replayed is true.
-- Locks: the account. Writes: grant_schedules 1, accounts 1, admin_audit_logs 1, and the grant
-- itself where it is due at once. Errors: actor errors, invalid_argument, account_not_found,
-- account_erased, grant_schedule_not_found, grant_schedule_over, idempotency_key_reused.
-- Example: SELECT * FROM billing.set_grant_schedule(p_account_id => '...', p_amount => 20,
--     p_day => 1, p_reason => 'a plan with 20 messages a month');
CREATE OR REPLACE FUNCTION billing.set_grant_schedule(
    p_account_id uuid,
    p_amount bigint,
    p_reason text,
    p_repeat text DEFAULT 'monthly',
    p_day bigint DEFAULT NULL,
    p_rollover boolean DEFAULT false,
    p_lasts_days bigint DEFAULT NULL,
    p_starts_at timestamptz DEFAULT NULL,
    p_ends_at timestamptz DEFAULT NULL,
    p_grants bigint DEFAULT NULL,
    p_description text DEFAULT NULL,
    p_priority bigint DEFAULT NULL,
    p_source text DEFAULT NULL,
    p_schedule_id uuid DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (schedule_id uuid, account_id uuid, next_at timestamptz, replayed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_now timestamptz;
    v_account billing_data.accounts;
    v_before billing_data.grant_schedules;
    v_schedule billing_data.grant_schedules;
BEGIN
    PERFORM billing_data.require_schedule(
        p_amount, p_repeat, p_day, p_rollover, p_lasts_days, p_starts_at, p_ends_at, p_grants
    );
    PERFORM billing_data.require_kind('grant', p_source, p_priority, NULL);
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_description, 'p_description');
    PERFORM billing_data.require(
        coalesce(length(p_description) > 0, true), 'p_description', 'it must not be empty'
    );
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require_durable_commit();
    v_account := billing_data.lock_account(p_account_id);
    IF v_account.id IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM billing_data.refuse_erased(v_account.id);
    v_now := billing_data.clock();
    v_schedule.amount_minor := p_amount;
    v_schedule.repeat := p_repeat;
    v_schedule.day := CASE WHEN p_repeat IN ('weekly', 'monthly') THEN coalesce(p_day, 1) END;
    v_schedule.rollover := p_rollover OR p_repeat = 'once';
    v_schedule.ends_at := p_ends_at;
    v_schedule.grants_left := p_grants;
    v_schedule.description := coalesce(p_description, CASE p_repeat
        WHEN 'once' THEN 'Granted' ELSE initcap(p_repeat) || ' grant' END);
    v_schedule.priority := p_priority;
    v_schedule.source := p_source;
    v_schedule.reason := p_reason;
    IF p_repeat = 'once' THEN
        v_schedule.next_at := coalesce(p_starts_at, v_now);
        v_schedule.expires_at := v_schedule.next_at + p_lasts_days * interval '24 hours';
    ELSE
        v_schedule.lasts_days := p_lasts_days;
        v_schedule.next_at := billing_data.next_grant(
            greatest(
                p_starts_at - interval '1 microsecond',
                -- A changed schedule does not give again for this very moment.
                v_now - CASE WHEN p_schedule_id IS NULL THEN interval '1 microsecond'
                    ELSE interval '0' END
            ),
            p_repeat, v_schedule.day
        );
    END IF;
    v_schedule.request_fingerprint := billing_data.fingerprint(
        billing_data.field_hash('schedule', jsonb_build_array(
            p_amount, p_reason, p_repeat, p_day, p_rollover, p_lasts_days,
            extract(EPOCH FROM p_starts_at), extract(EPOCH FROM p_ends_at), p_grants,
            p_description, p_priority, p_source, p_schedule_id
        )::text)
    );
    IF p_schedule_id IS NOT NULL THEN
        v_before := billing_data.find_schedule(p_schedule_id, v_account.id);
    ELSIF p_idempotency_key IS NOT NULL THEN
        SELECT g.* INTO v_before
        FROM billing_data.grant_schedules AS g
        WHERE g.made_for = ANY (billing_data.merge_path(p_account_id))
            AND g.idempotency_key = p_idempotency_key
        LIMIT 1;
        IF billing_data.is_other_request(
            v_before.request_fingerprint, v_schedule.request_fingerprint
        ) THEN
            PERFORM billing_data.raise_error('idempotency_key_reused');
        ELSIF v_before.id IS NOT NULL THEN
            RETURN QUERY SELECT v_before.id, v_before.account_id, v_before.next_at, true;
            RETURN;
        END IF;
    END IF;
    PERFORM billing_data.require(
        extract(YEAR FROM greatest(v_schedule.next_at, v_schedule.expires_at) AT TIME ZONE 'UTC')
        <= 9999,
        'p_starts_at', 'the first grant, or the end of what is given once, is after the year 9999'
    );
    PERFORM billing_data.require(
        (v_schedule.expires_at > v_now) IS NOT FALSE, 'p_lasts_days',
        'what is given then would have ended before now'
    );
    PERFORM billing_data.require(
        NOT EXISTS (
            SELECT
            FROM billing_data.scheduled_grants AS s
            WHERE s.schedule_id = p_schedule_id AND s.due_at = v_schedule.next_at
        ),
        'p_starts_at', 'the schedule has given credits for this moment before'
    );
    PERFORM billing_data.require(
        (v_schedule.next_at >= p_ends_at) IS NOT TRUE, 'p_ends_at',
        'it must be after the first grant'
    );
    v_schedule.id := coalesce(v_before.id, billing_data.new_id());
    INSERT INTO billing_data.grant_schedules AS g (
        id, account_id, made_for, amount_minor, transaction_type, source, priority, description,
        repeat, day, rollover, lasts_days, expires_at, next_at, ends_at, grants_left, reason,
        idempotency_key, request_fingerprint, admin_user_id, database_role, created_at, updated_at
    )
    VALUES (
        v_schedule.id, v_account.id, v_account.id, v_schedule.amount_minor, 'grant',
        v_schedule.source, v_schedule.priority, v_schedule.description, v_schedule.repeat,
        v_schedule.day, v_schedule.rollover, v_schedule.lasts_days, v_schedule.expires_at,
        v_schedule.next_at, v_schedule.ends_at, v_schedule.grants_left, v_schedule.reason,
        p_idempotency_key, v_schedule.request_fingerprint, v_actor.admin_user_id,
        v_actor.database_role, v_now, v_now
    )
    ON CONFLICT ON CONSTRAINT grant_schedules_pkey DO UPDATE
    SET amount_minor = excluded.amount_minor,
        transaction_type = excluded.transaction_type,
        source = excluded.source,
        priority = excluded.priority,
        description = excluded.description,
        repeat = excluded.repeat,
        day = excluded.day,
        rollover = excluded.rollover,
        lasts_days = excluded.lasts_days,
        expires_at = excluded.expires_at,
        next_at = excluded.next_at,
        ends_at = excluded.ends_at,
        grants_left = excluded.grants_left,
        reason = excluded.reason,
        api_key_id = NULL,
        admin_user_id = excluded.admin_user_id,
        database_role = excluded.database_role,
        updated_at = excluded.updated_at;
    PERFORM billing_data.write_audit(
        'account.set_grant_schedule', 'account', v_account.id::text,
        jsonb_strip_nulls(jsonb_build_object(
            'schedule_id', v_schedule.id, 'amount', p_amount, 'repeat', p_repeat,
            'day', v_schedule.day, 'rollover', v_schedule.rollover, 'lasts_days', p_lasts_days,
            'next_at', billing_data.instant_text(v_schedule.next_at),
            'ends_at', billing_data.instant_text(p_ends_at), 'grants', p_grants,
            'priority', p_priority, 'source', p_source,
            'before', CASE
                WHEN v_before.id IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
                    'amount', v_before.amount_minor, 'repeat', v_before.repeat,
                    'day', v_before.day, 'rollover', v_before.rollover,
                    'lasts_days', v_before.lasts_days,
                    'next_at', billing_data.instant_text(v_before.next_at),
                    'ends_at', billing_data.instant_text(v_before.ends_at),
                    'grants', v_before.grants_left
                ))
            END
        )),
        p_reason, v_actor
    );
    PERFORM billing_data.note_schedules(v_account.id);
    RETURN QUERY
    SELECT g.id, g.account_id, g.next_at, false
    FROM billing_data.grant_schedules AS g
    WHERE g.id = v_schedule.id;
END
$$;
COMMENT ON FUNCTION billing.set_grant_schedule IS
    'Gives an account credits every day, week or month, or changes that. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_grant_schedule TO billing_server, billing_dba;

-- Changes a running schedule of grants from its next grant on: how much it gives, whether what is
-- left is kept when the next grants come, and what its credits are called. An argument that is NULL
-- changes nothing; where nothing changes, nothing is written. Credits that were given stay as they
-- were given. A schedule's writer is whoever changed it last.
-- Locks: the account. Writes: grant_schedules 0..1, accounts 0..1, admin_audit_logs 0..1.
-- Errors: actor errors, invalid_argument, grant_schedule_not_found, grant_schedule_over.
-- Example: SELECT * FROM billing.change_grant_schedule(p_schedule_id => '...', p_amount => 30,
--     p_reason => 'a greater plan');
CREATE OR REPLACE FUNCTION billing.change_grant_schedule(
    p_schedule_id uuid,
    p_reason text,
    p_amount bigint DEFAULT NULL,
    p_rollover boolean DEFAULT NULL,
    p_description text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (schedule_id uuid, account_id uuid, next_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_before billing_data.grant_schedules;
    v_after billing_data.grant_schedules;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        (p_amount > 0) IS NOT FALSE, 'p_amount', 'it must be greater than 0'
    );
    PERFORM billing_data.require_short(p_description, 'p_description');
    PERFORM billing_data.require(
        (p_description <> '') IS NOT FALSE, 'p_description', 'it must not be empty'
    );
    PERFORM billing_data.require_durable_commit();
    v_before := billing_data.lock_schedule(p_schedule_id);
    PERFORM billing_data.require(
        v_before.repeat <> 'once' OR p_rollover IS NULL, 'p_rollover',
        'what is given once has no next ones'
    );
    v_after := v_before;
    v_after.amount_minor := coalesce(p_amount, v_before.amount_minor);
    v_after.rollover := coalesce(p_rollover, v_before.rollover);
    v_after.description := coalesce(p_description, v_before.description);
    IF v_after IS DISTINCT FROM v_before THEN
        UPDATE billing_data.grant_schedules AS g
        SET amount_minor = v_after.amount_minor,
            rollover = v_after.rollover,
            description = v_after.description,
            reason = p_reason,
            api_key_id = NULL,
            admin_user_id = v_actor.admin_user_id,
            database_role = v_actor.database_role,
            updated_at = billing_data.clock()
        WHERE g.id = p_schedule_id;
        PERFORM billing_data.write_audit(
            'account.change_grant_schedule', 'account', v_before.account_id::text,
            jsonb_build_object('schedule_id', p_schedule_id)
            || jsonb_object_agg(
                w.word,
                jsonb_build_object(
                    'amount', (w.s).amount_minor, 'rollover', (w.s).rollover,
                    'description', (w.s).description
                )
            ),
            p_reason, v_actor
        )
        FROM (VALUES ('before', v_before), ('after', v_after)) AS w (word, s);
        PERFORM billing_data.note_schedules(v_before.account_id);
    END IF;
    RETURN QUERY SELECT p_schedule_id, v_before.account_id, v_before.next_at;
END
$$;
COMMENT ON FUNCTION billing.change_grant_schedule IS
    'Changes a schedule of grants from its next grant on. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.change_grant_schedule TO billing_server, billing_dba;

-- Pauses a schedule of grants, or lets it go on (p_paused false). Grants that fell into the pause
-- are not made afterwards. A schedule that gives once, and whose moment fell into the pause, gives
-- as soon as the pause ends.
-- Locks: the account. Writes: grant_schedules 0..1, accounts 0..1, admin_audit_logs 0..1.
-- Errors: actor errors, invalid_argument, grant_schedule_not_found, grant_schedule_over.
-- Example: SELECT * FROM billing.pause_grant_schedule(p_schedule_id => '...',
--     p_reason => 'the plan is on hold');
CREATE OR REPLACE FUNCTION billing.pause_grant_schedule(
    p_schedule_id uuid,
    p_reason text,
    p_paused boolean DEFAULT true,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (schedule_id uuid, account_id uuid, next_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_schedule billing_data.grant_schedules;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(p_paused IS NOT NULL, 'p_paused', 'it must be true or false');
    PERFORM billing_data.require_durable_commit();
    v_schedule := billing_data.lock_schedule(p_schedule_id);
    IF v_schedule.is_paused <> p_paused THEN
        UPDATE billing_data.grant_schedules AS g
        SET is_paused = p_paused,
            next_at = CASE
                WHEN p_paused OR g.repeat = 'once' OR g.next_at > billing_data.clock()
                    THEN g.next_at
                ELSE billing_data.next_grant(billing_data.clock(), g.repeat, g.day)
            END,
            updated_at = billing_data.clock()
        WHERE g.id = p_schedule_id;
        UPDATE billing_data.grant_schedules AS g
        SET next_at = NULL
        WHERE g.id = p_schedule_id AND g.next_at >= g.ends_at;
        PERFORM billing_data.write_audit(
            CASE WHEN p_paused THEN 'account.pause_grant_schedule'
                ELSE 'account.resume_grant_schedule' END,
            'account', v_schedule.account_id::text,
            jsonb_build_object('schedule_id', p_schedule_id), p_reason, v_actor
        );
        PERFORM billing_data.note_schedules(v_schedule.account_id);
    END IF;
    RETURN QUERY
    SELECT g.id, g.account_id, g.next_at
    FROM billing_data.grant_schedules AS g
    WHERE g.id = p_schedule_id;
END
$$;
COMMENT ON FUNCTION billing.pause_grant_schedule IS
    'Pauses a schedule of grants, or lets it go on. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.pause_grant_schedule TO billing_server, billing_dba;

-- Ends a schedule of grants. What it gave stays.
-- Locks: the account. Writes: grant_schedules 1, accounts 1, admin_audit_logs 1.
-- Errors: actor errors, invalid_argument, grant_schedule_not_found, grant_schedule_over.
-- Example: SELECT * FROM billing.end_grant_schedule(p_schedule_id => '...',
--     p_reason => 'the plan is over');
CREATE OR REPLACE FUNCTION billing.end_grant_schedule(
    p_schedule_id uuid, p_reason text, p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (schedule_id uuid, account_id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_schedule billing_data.grant_schedules;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_durable_commit();
    v_schedule := billing_data.lock_schedule(p_schedule_id);
    UPDATE billing_data.grant_schedules AS g
    SET next_at = NULL, updated_at = billing_data.clock()
    WHERE g.id = p_schedule_id;
    PERFORM billing_data.write_audit(
        'account.end_grant_schedule', 'account', v_schedule.account_id::text,
        jsonb_build_object(
            'schedule_id', p_schedule_id,
            'next_at', billing_data.instant_text(v_schedule.next_at)
        ),
        p_reason,
        v_actor
    );
    PERFORM billing_data.note_schedules(v_schedule.account_id);
    RETURN QUERY SELECT p_schedule_id, v_schedule.account_id;
END
$$;
COMMENT ON FUNCTION billing.end_grant_schedule IS
    'Ends a schedule of grants. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.end_grant_schedule TO billing_server, billing_dba;

-- The schedules of grants of an account, or of all accounts, newest first: those that have still
-- something to give (state active or paused), and with p_all also those that ended. grants is how
-- many it gave so far. Credits that take effect at a later time are among them (repeat once).
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_grant_schedules(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.list_grant_schedules(
    p_account_id uuid DEFAULT NULL,
    p_all boolean DEFAULT false,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    schedule_id uuid,
    account_id uuid,
    state text,
    amount_minor bigint,
    currency text,
    repeat text,
    day bigint,
    rollover boolean,
    lasts_days bigint,
    expires_at timestamptz,
    next_at timestamptz,
    ends_at timestamptz,
    grants_left bigint,
    grants bigint,
    source text,
    priority bigint,
    description text,
    reason text,
    who text,
    created_at timestamptz,
    updated_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_account_id uuid := billing_data.surviving_account(p_account_id);
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    PERFORM billing_data.require(p_all IS NOT NULL, 'p_all', 'it must be true or false');
    RETURN QUERY
    SELECT
        g.id, g.account_id,
        CASE
            WHEN g.next_at IS NULL THEN 'ended'
            WHEN g.is_paused THEN 'paused'
            ELSE 'active'
        END,
        g.amount_minor, a.currency::text, g.repeat, g.day::bigint, g.rollover,
        g.lasts_days::bigint, g.expires_at, g.next_at, g.ends_at, g.grants_left,
        (
            SELECT count(*)
            FROM billing_data.scheduled_grants AS s
            WHERE s.schedule_id = g.id
        ),
        coalesce(g.source, billing_data.usual_source(g.transaction_type)),
        coalesce(g.priority, billing_data.usual_priority())::bigint, g.description::text, g.reason,
        billing_data.writer_name(k.name, k.key_prefix, u.email, NULL, g.database_role),
        g.created_at, g.updated_at
    FROM billing_data.grant_schedules AS g
    INNER JOIN billing_data.accounts AS a ON a.id = g.account_id
    LEFT JOIN billing_data.api_keys AS k ON k.id = g.api_key_id
    LEFT JOIN billing_data.admin_users AS u ON u.id = g.admin_user_id
    WHERE (p_account_id IS NULL OR g.account_id = v_account_id)
        AND (p_all OR g.next_at IS NOT NULL)
    ORDER BY g.created_at DESC, g.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_grant_schedules IS
    'Lists schedules of grants, newest first. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_grant_schedules TO billing_server, billing_dba;

-- Finds what is wrong with schedules. A schedule's next grant must be due to be booked. A grant
-- must be a credit of the schedule's account. It looks at the accounts that billing.verify_ledger
-- looks at; a grant whose schedule is gone belongs to no account, and is found in the first range
-- of a run.
CREATE OR REPLACE FUNCTION billing_data.find_schedule_faults(
    p_account_id uuid, p_after uuid, p_through uuid
) RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT a.id, format('schedule %s gives and nothing will book it', g.id),
        'due at ' || g.next_at, 'due at ' || a.due_at
    FROM billing_data.grant_schedules AS g
    INNER JOIN billing_data.accounts AS a ON a.id = g.account_id
    WHERE billing_data.is_in_range(g.account_id, p_account_id, p_after, p_through)
        AND NOT g.is_paused AND g.next_at IS NOT NULL AND (a.due_at <= g.next_at) IS NOT TRUE
    UNION ALL
    SELECT n.account_id, format('credit %s is not the grant of its schedule', n.credit_id),
        'a credit that the schedule gave', 'another account or none'
    FROM (
        SELECT
            coalesce(c.account_id, g.account_id) AS account_id, s.credit_id,
            c.amount_minor > 0
            AND billing_data.surviving_account(c.account_id)
            = billing_data.surviving_account(g.account_id) AS is_right
        FROM billing_data.grant_schedules AS g
        INNER JOIN billing_data.scheduled_grants AS s ON s.schedule_id = g.id
        LEFT JOIN billing_data.credits AS c ON c.id = s.credit_id
        WHERE billing_data.is_in_range(g.account_id, p_account_id, p_after, p_through)
        UNION ALL
        SELECT c.account_id, s.credit_id, false
        FROM billing_data.scheduled_grants AS s
        LEFT JOIN billing_data.credits AS c ON c.id = s.credit_id
        WHERE p_account_id IS NULL AND p_after IS NULL
            AND NOT EXISTS (
                SELECT FROM billing_data.grant_schedules AS g WHERE g.id = s.schedule_id
            )
    ) AS n
    WHERE n.is_right IS NOT TRUE;
END
$$;
COMMENT ON FUNCTION billing_data.find_schedule_faults IS
    'Finds schedules that nothing will book, and grants that are not their credits. Helper.';
