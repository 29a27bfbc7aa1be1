-- What the servers do for top-ups: they find the accounts that need one, and record the result. An
-- attempt is decided and recorded before the provider is asked. Its payment is recorded before the
-- card is charged, and a payment can be paid once only, so that a server that dies at any moment
-- costs nobody money: another one reads at the provider what became of the payment.

-- Whether an account is to be topped up, by its status, its available credits and the threshold.
CREATE OR REPLACE FUNCTION billing_data.needs_top_up(
    p_status text, p_available bigint, p_threshold bigint
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_status = 'active' AND p_available <= p_threshold;
COMMENT ON FUNCTION billing_data.needs_top_up IS
    'Whether an account is to be topped up. Helper.';

-- The paid credits that an account has at this moment and no hold keeps. Credits, holds and grants
-- whose end or moment has come count so, booked or not.
CREATE OR REPLACE FUNCTION billing_data.available_credits(p_account billing_data.accounts)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT s.paid_credits - s.held FROM billing_data.standing(p_account) AS s);
END
$$;
COMMENT ON FUNCTION billing_data.available_credits IS
    'The paid credits of an account that no hold keeps. Helper.';

-- Whether something that was bought by a top-up, for an account or one that was merged into it, has
-- not arrived yet: an attempt is open, or one was paid and the provider has not reported it. Until
-- then nothing more is bought. A payment that staff have settled in another way counts as arrived.
CREATE OR REPLACE FUNCTION billing_data.awaits_top_up(p_account_id uuid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT
        FROM billing_data.top_up_attempts AS x
        INNER JOIN billing_data.purchases AS p
            ON p.account_id = x.account_id AND p.id = x.purchase_id
        WHERE x.account_id = ANY (billing_data.merged_family(p_account_id))
            AND (
                x.state = 'open'
                OR (
                    x.state = 'succeeded'
                    AND p.settled_at IS NULL
                    AND NOT billing_data.is_resolved_without_credit(p.provider, p.payment_id)
                )
            )
    )
$$;
COMMENT ON FUNCTION billing_data.awaits_top_up IS
    'Whether what a top-up bought has not arrived yet. Helper.';

-- Raises the alert that a top-up did not buy what it should, with its newest problem.
-- Locks: none. Writes: outbox 0..n.
CREATE OR REPLACE FUNCTION billing_data.tell_of_top_up(p_top_up_id uuid, p_payment_id text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.raise_alert('topup.failed', t.account_id, jsonb_build_object(
        'problem', t.problem,
        'problem_text', billing_data.top_up_problem_words(t.problem),
        'payment_id', p_payment_id,
        'failures', t.failures,
        'status', CASE WHEN t.ended_at IS NULL THEN 'on' ELSE 'off' END,
        'next_attempt_at', CASE WHEN t.ended_at IS NULL THEN t.next_attempt_at END
    ))
    FROM billing_data.top_ups AS t
    WHERE t.id = p_top_up_id;
END
$$;
COMMENT ON FUNCTION billing_data.tell_of_top_up IS
    'Raises the alert that a top-up did not buy. Helper.';

-- Begins an attempt for a top-up that the caller has locked, if one is needed at this moment. Where
-- packs cost more than was agreed to, it ends the top-up instead. Where the attempt would exceed
-- the month's cap, the top-up waits for the next month. Where money of a payment went back since
-- the consent, it waits until the money comes again, which is looked at once a day, or the person
-- agrees again.
-- Locks: none. Writes: purchases 0..1, top_up_attempts 0..1, top_ups 0..1, outbox 0..n.
CREATE OR REPLACE FUNCTION billing_data.begin_top_up_attempt(p_top_up_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
    v_top_up billing_data.top_ups;
    v_purchase_id uuid := billing_data.new_id();
    v_account record;
    v_pack record;
BEGIN
    SELECT t.* INTO STRICT v_top_up FROM billing_data.top_ups AS t WHERE t.id = p_top_up_id;
    SELECT
        a.status::text AS status, a.customer_email, billing_data.available_credits(a) AS available
    INTO STRICT v_account
    FROM billing_data.accounts AS a
    WHERE a.id = v_top_up.account_id;
    IF v_top_up.ended_at IS NOT NULL
        OR NOT billing_data.needs_top_up(
            v_account.status, v_account.available, v_top_up.threshold
        )
        OR billing_data.awaits_top_up(v_top_up.account_id)
    THEN
        RETURN;
    END IF;
    IF billing_data.money_went_back(v_top_up.account_id, v_top_up.consented_at) THEN
        UPDATE billing_data.top_ups AS t
        SET problem = 'money_returned', next_attempt_at = v_now + interval '1 day'
        WHERE t.id = p_top_up_id;
        IF v_top_up.problem IS DISTINCT FROM 'money_returned' THEN
            PERFORM billing_data.tell_of_top_up(p_top_up_id, NULL);
        END IF;
        RETURN;
    END IF;
    SELECT
        s.pack_uses::numeric * v_top_up.packs AS uses,
        s.pack_price_minor::numeric * v_top_up.packs AS price_minor, s.pack_currency AS currency
    INTO STRICT v_pack
    FROM billing_data.settings AS s;
    IF v_pack.currency <> v_top_up.currency OR v_pack.price_minor > v_top_up.amount_minor
        OR v_pack.uses > billing_data.max_amount()
    THEN
        UPDATE billing_data.top_ups AS t
        SET problem = 'price_changed', ended_at = v_now, end_reason = 'price_changed'
        WHERE t.id = p_top_up_id;
        PERFORM billing_data.tell_of_top_up(p_top_up_id, NULL);
        RETURN;
    END IF;
    IF billing_data.top_up_spent(v_top_up.account_id, v_top_up.currency, v_now) + v_pack.price_minor
        > v_top_up.monthly_cap_minor
    THEN
        UPDATE billing_data.top_ups AS t
        SET problem = 'cap_reached', next_attempt_at = billing_data.month_of(v_now, 1)
        WHERE t.id = p_top_up_id;
        PERFORM billing_data.tell_of_top_up(p_top_up_id, NULL);
        RETURN;
    END IF;
    -- The purchase names whoever recorded the consent as its writer.
    INSERT INTO billing_data.purchases (
        account_id, id, provider, uses, price_minor, currency, customer_email, api_key_id,
        database_role, created_at
    )
    VALUES (
        v_top_up.account_id, v_purchase_id, v_top_up.provider, v_pack.uses, v_pack.price_minor,
        v_pack.currency, v_account.customer_email, v_top_up.api_key_id, v_top_up.database_role,
        v_now
    );
    INSERT INTO billing_data.top_up_attempts (
        account_id, purchase_id, top_up_id, created_at, leased_until
    )
    VALUES (v_top_up.account_id, v_purchase_id, p_top_up_id, v_now, v_now);
END
$$;
COMMENT ON FUNCTION billing_data.begin_top_up_attempt IS
    'Begins an attempt for a top-up, if one is needed now. Helper.';

-- Begins attempts for accounts that need a top-up, and hands out up to p_limit attempts to work on:
-- new ones, and those whose server has recorded nothing for a minute. Each belongs to the caller
-- for a minute. payment_id is that of the payment that was recorded for it, NULL when there is
-- none. Servers call it every second. Where no account needs a top-up it only reads: as many rows
-- as there are top-ups in force.
-- Locks: the top-ups and the attempts; those that another transaction holds are left out. Writes:
-- purchases 0..n, top_up_attempts 0..n, top_ups 0..n, outbox 0..n. Errors: invalid_argument.
-- Example: SELECT * FROM billing.claim_top_ups(p_limit => 8);
CREATE OR REPLACE FUNCTION billing.claim_top_ups(p_limit bigint)
RETURNS TABLE (
    account_id uuid,
    purchase_id uuid,
    oauth_provider text,
    external_id text,
    customer_email text,
    uses bigint,
    price_minor bigint,
    currency text,
    payment_id text,
    customer_id text,
    payment_method_id text,
    provider text,
    config_data jsonb
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off  -- it would read all accounts, to find those of the top-ups in force
SET enable_mergejoin = off
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
    v_id uuid;
BEGIN
    PERFORM billing_data.require_page(p_limit, 0, 500);
    PERFORM billing_data.require_durable_commit();
    FOR v_id IN
        WITH low AS MATERIALIZED (
            SELECT n.id, n.account_id, n.next_attempt_at
            FROM billing_data.top_ups AS n
            INNER JOIN billing_data.accounts AS a ON a.id = n.account_id
            WHERE n.ended_at IS NULL
                AND n.next_attempt_at <= v_now
                AND billing_data.needs_top_up(
                    a.status::text,
                    CASE
                        WHEN a.due_at <= v_now THEN billing_data.available_credits(a)
                        ELSE a.paid_credits - a.held_credits
                    END,
                    n.threshold
                )
        )
        SELECT t.id
        FROM low AS l
        INNER JOIN billing_data.top_ups AS t ON t.id = l.id
        INNER JOIN billing_data.provider_configs AS c
            ON c.provider_type = t.provider AND c.is_active
        WHERE NOT billing_data.awaits_top_up(l.account_id)
        ORDER BY l.next_attempt_at
        LIMIT p_limit
        FOR NO KEY UPDATE OF t SKIP LOCKED
    LOOP
        PERFORM billing_data.begin_top_up_attempt(v_id);
    END LOOP;
    RETURN QUERY
    WITH due AS (
        SELECT y.account_id, y.purchase_id
        FROM billing_data.top_up_attempts AS y
        INNER JOIN billing_data.purchases AS q
            ON q.account_id = y.account_id AND q.id = y.purchase_id
        INNER JOIN billing_data.provider_configs AS d
            ON d.provider_type = q.provider AND d.is_active
        WHERE y.state = 'open' AND y.leased_until <= billing_data.clock()
        ORDER BY y.leased_until
        LIMIT p_limit
        FOR NO KEY UPDATE OF y SKIP LOCKED
    ),
    leased AS (
        UPDATE billing_data.top_up_attempts AS x
        SET leased_until = billing_data.clock() + billing_data.top_up_lease()
        FROM due
        WHERE x.account_id = due.account_id AND x.purchase_id = due.purchase_id
        RETURNING x.account_id, x.purchase_id, x.top_up_id
    )
    SELECT
        l.account_id, l.purchase_id, a.oauth_provider::text, a.external_id::text,
        p.customer_email::text, p.uses, p.price_minor, p.currency::text, p.payment_id::text,
        t.customer_id::text, t.payment_method_id::text, p.provider, c.config_data
    FROM leased AS l
    INNER JOIN billing_data.accounts AS a ON a.id = l.account_id
    INNER JOIN billing_data.purchases AS p ON p.account_id = l.account_id AND p.id = l.purchase_id
    INNER JOIN billing_data.top_ups AS t ON t.id = l.top_up_id
    INNER JOIN billing_data.provider_configs AS c ON c.provider_type = p.provider;
END
$$;
COMMENT ON FUNCTION billing.claim_top_ups IS
    'Hands out top-ups for a server to have charged at the provider. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.claim_top_ups TO billing_server;

-- Records what became of an attempt, and tells what to do next with its payment (payment_id, the
-- one recorded first): charge it, cancel it, or stop. p_outcome is one of these: 'made' (the
-- provider has the payment p_payment_id and has not charged it: it is recorded, and next_step tells
-- whether to charge it, which depends on whether the consent is still in force, the credits are
-- still low, no money went back and the month is still the one whose cap was looked at);
-- 'succeeded' (paid); 'failed' (it can never be paid, for the reason p_problem); 'canceled' (it can
-- never be paid, and nothing went wrong); 'unknown' (it is not known what became of it, for the
-- reason p_problem: the attempt stays open, and is handed out again after a pause that grows from
-- 10 seconds to an hour). After the third failure in a row the top-up ends (switched_off true). A
-- report on an attempt that has ended changes nothing.
-- Locks: the top-up, the attempt. Writes: top_up_attempts 0..1, top_ups 0..1, purchases 0..1,
-- outbox 0..n.
-- Errors: invalid_argument.
-- Example: SELECT * FROM billing.note_top_up(p_account_id => '...', p_purchase_id => '...',
--     p_outcome => 'failed', p_problem => 'expired_card');
CREATE OR REPLACE FUNCTION billing.note_top_up(
    p_account_id uuid,
    p_purchase_id uuid,
    p_outcome text,
    p_payment_id text DEFAULT NULL,
    p_problem text DEFAULT NULL
) RETURNS TABLE (next_step text, payment_id text, switched_off boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
    v_attempt billing_data.top_up_attempts;
    v_top_up billing_data.top_ups;
    v_outcome text := p_outcome;
    v_is_settled boolean;
BEGIN
    PERFORM billing_data.require(
        p_outcome IN ('made', 'succeeded', 'failed', 'canceled', 'unknown'), 'p_outcome',
        'it must be made, succeeded, failed, canceled or unknown'
    );
    PERFORM billing_data.require(
        p_outcome NOT IN ('failed', 'unknown') OR p_problem ~ '^[a-z][a-z0-9_]{0,99}$', 'p_problem',
        'a failure needs a reason in one word'
    );
    IF p_outcome = 'made' THEN
        PERFORM billing_data.require_filled(p_payment_id, 'p_payment_id');
    END IF;
    PERFORM billing_data.require_durable_commit();
    next_step := 'stop';
    switched_off := false;
    SELECT t.* INTO v_top_up
    FROM billing_data.top_ups AS t
    WHERE t.id = (
        SELECT x.top_up_id
        FROM billing_data.top_up_attempts AS x
        WHERE x.account_id = p_account_id AND x.purchase_id = p_purchase_id
    )
    FOR NO KEY UPDATE;
    SELECT x.* INTO v_attempt
    FROM billing_data.top_up_attempts AS x
    WHERE x.account_id = p_account_id AND x.purchase_id = p_purchase_id
    FOR NO KEY UPDATE;
    IF v_attempt.state IS DISTINCT FROM 'open' THEN
        RETURN NEXT;
        RETURN;
    END IF;
    UPDATE billing_data.purchases AS p
    SET payment_id = coalesce(p.payment_id, p_payment_id)
    WHERE p.account_id = p_account_id AND p.id = p_purchase_id
    RETURNING p.payment_id::text, p.settled_at IS NOT NULL
    INTO STRICT payment_id, v_is_settled;
    IF v_is_settled THEN  -- the provider has reported it before its answer came
        v_outcome := 'succeeded';
    END IF;
    IF v_outcome = 'made' THEN
        SELECT
            CASE
                WHEN v_top_up.ended_at IS NULL
                    AND v_attempt.created_at >= billing_data.month_of(v_now)
                    AND NOT billing_data.money_went_back(p_account_id, v_top_up.consented_at)
                    AND billing_data.needs_top_up(
                        a.status::text, billing_data.available_credits(a), v_top_up.threshold
                    ) THEN 'charge'
                ELSE 'cancel'
            END
        INTO STRICT next_step
        FROM billing_data.accounts AS a
        WHERE a.id = p_account_id;
    ELSIF v_outcome IN ('succeeded', 'failed') THEN
        v_top_up.failures := CASE v_outcome WHEN 'failed' THEN v_top_up.failures + 1 ELSE 0 END;
        switched_off := v_top_up.failures >= 3 AND v_top_up.ended_at IS NULL;
    END IF;
    UPDATE billing_data.top_up_attempts AS x
    SET state = CASE WHEN v_outcome IN ('made', 'unknown') THEN x.state ELSE v_outcome END,
        ended_at = CASE WHEN v_outcome NOT IN ('made', 'unknown') THEN v_now END,
        problem = CASE WHEN v_outcome IN ('failed', 'unknown') THEN p_problem END,
        tries = x.tries + CASE v_outcome WHEN 'unknown' THEN 1 ELSE 0 END,
        leased_until = v_now + CASE v_outcome
            WHEN 'unknown'
                THEN least(interval '10 seconds' * 2 ^ least(x.tries, 20), interval '1 hour')
            ELSE billing_data.top_up_lease()
        END
    WHERE x.account_id = p_account_id AND x.purchase_id = p_purchase_id;
    UPDATE billing_data.top_ups AS t
    SET failures = least(v_top_up.failures, 3),
        problem = CASE WHEN v_outcome IN ('failed', 'unknown') THEN p_problem END,
        next_attempt_at = CASE v_outcome
            WHEN 'failed' THEN v_now + billing_data.top_up_pause(v_top_up.failures)
            ELSE t.next_attempt_at
        END,
        ended_at = CASE WHEN switched_off THEN v_now ELSE t.ended_at END,
        end_reason = CASE WHEN switched_off THEN 'failures' ELSE t.end_reason END
    WHERE t.id = v_top_up.id AND v_outcome IN ('succeeded', 'failed', 'unknown');
    IF v_outcome = 'failed' THEN
        PERFORM billing_data.tell_of_top_up(v_top_up.id, payment_id);
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.note_top_up IS
    'Records what became of an attempt to top an account up. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.note_top_up TO billing_server;
