-- The payment provider's events. Each is stored once, in the transaction of its effect. A stored
-- event has been processed; one that could not be processed is tried again when the provider
-- delivers it again.

-- Processes one event, whose signature the caller has verified, in the form the caller made of it.
-- p_action is one of these: 'settle' (money came: p_amount_minor, p_currency); 'return' (how much
-- of the money of refunds and disputes is away: the p_return arrays); 'unreadable' (money went
-- back, and the provider does not show the charge to us); 'warn' (a report of fraud: p_warning_id,
-- p_warning_is_open); 'acknowledge'; 'ignore'. p_occurred_at is the time for which the provider
-- reports it. First it is decided whether the payment is ours, then whether the mode fits; for
-- p_is_claimed and p_is_foreign see billing_data.owner_of_payment. An event that was processed
-- before changes nothing, unless it ended in a fault: then it is tried again.
-- outcome is that of billing_data.owner_of_payment, settle_payment or apply_return. needs_attention
-- is true when money and credits do not agree: then the event is kept and listed by
-- billing.list_payment_problems. The event's client secret is not stored. A server of the release
-- before reports only whether a return is withdrawn, without a time; such a report counts only
-- where nothing is known yet.
-- Locks: the event, the account, the purchase. Writes: payment_events 1, what the effect writes,
-- admin_audit_logs 1 when a database role replays an event. Errors: invalid_argument.
-- Example: SELECT * FROM billing.process_payment_event(p_event_id => 'evt_1',
--     p_event_type => 'customer.created', p_payload => '{}', p_action => 'ignore');
CREATE OR REPLACE FUNCTION billing.process_payment_event(
    p_event_id text,
    p_event_type text,
    p_payload jsonb,
    p_action text,
    p_livemode boolean DEFAULT NULL,
    p_payment_id text DEFAULT NULL,
    p_amount_minor bigint DEFAULT NULL,
    p_currency text DEFAULT NULL,
    p_account_id uuid DEFAULT NULL,
    p_purchase_id uuid DEFAULT NULL,
    p_oauth_provider text DEFAULT NULL,
    p_external_id text DEFAULT NULL,
    p_return_ids text[] DEFAULT '{}',
    p_return_kinds text[] DEFAULT '{}',
    p_return_amounts_minor bigint[] DEFAULT '{}',
    p_returns_withdrawn boolean[] DEFAULT NULL,
    p_provider text DEFAULT billing.default_payment_provider(),
    p_return_away_minor bigint[] DEFAULT NULL,
    p_return_states text[] DEFAULT NULL,
    p_return_transactions bigint[] DEFAULT NULL,
    p_occurred_at timestamptz DEFAULT NULL,
    p_is_claimed boolean DEFAULT NULL,
    p_is_foreign boolean DEFAULT false,
    p_warning_id text DEFAULT NULL,
    p_warning_is_open boolean DEFAULT NULL
) RETURNS TABLE (
    outcome text,
    needs_attention boolean,
    deliveries bigint,
    account_id uuid,
    purchase_id uuid,
    credits_added bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- From the web tier the provider itself speaks; a DBA who replays an event acts in their own
    -- name.
    v_role text := CASE WHEN NOT billing_data.is_web_tier() THEN billing_data.caller_role() END;
    v_writer text := CASE WHEN v_role IS NULL THEN p_provider END;
    v_actor billing_data.actor;
    -- Client secrets are removed wherever the provider repeats them.
    v_payload jsonb := regexp_replace(
        p_payload::text, E'"client_secret": "(\\\\.|[^"\\\\])*"', '"client_secret": null', 'g'
    )::jsonb;
    v_event billing_data.payment_events;
    v_returns billing_data.payment_returns[];
    v_told billing_data.payment_returns;
    v_owner record;
    v_mode text;
    v_outcome text;
BEGIN
    PERFORM billing_data.require_filled(p_event_id, 'p_event_id');
    PERFORM billing_data.require_filled(p_event_type, 'p_event_type');
    PERFORM billing_data.require_payment_provider(p_provider);
    PERFORM billing_data.require(
        jsonb_typeof(p_payload) = 'object', 'p_payload', 'it must be an object'
    );
    PERFORM billing_data.require_short(v_payload::text, 'p_payload');
    PERFORM billing_data.require(
        p_action IN ('settle', 'return', 'unreadable', 'warn', 'acknowledge', 'ignore'),
        'p_action', 'it must be settle, return, unreadable, warn, acknowledge or ignore'
    );
    PERFORM billing_data.require(
        p_action <> 'warn'
        OR (
            length(p_warning_id) BETWEEN 1 AND billing_data.most('warning_id')
            AND p_warning_is_open IS NOT NULL
        ),
        'p_warning_id',
        format(
            'a warning needs an id of 1 to %s characters and whether it is open',
            billing_data.most('warning_id')
        )
    );
    IF p_payment_id IS NOT NULL OR p_action IN ('settle', 'return', 'unreadable', 'warn') THEN
        PERFORM billing_data.require_filled(p_payment_id, 'p_payment_id');
    END IF;
    PERFORM billing_data.require_moment(p_occurred_at, 'p_occurred_at');
    v_returns := ARRAY(
        SELECT t
        FROM billing_data.told_returns(
            p_return_ids, p_return_kinds, p_return_amounts_minor, p_returns_withdrawn,
            p_return_away_minor, p_return_states, p_return_transactions, p_occurred_at
        ) AS t
    );
    PERFORM billing_data.require_durable_commit();

    INSERT INTO billing_data.payment_events AS e (
        provider, event_id, event_type, payment_id, livemode, payload, outcome, received_at,
        last_received_at
    )
    VALUES (
        p_provider, p_event_id, p_event_type, p_payment_id, p_livemode,
        v_payload, 'ignored', clock_timestamp(), clock_timestamp()
    )
    ON CONFLICT ON CONSTRAINT payment_events_pkey DO UPDATE
    SET deliveries = e.deliveries + 1, last_received_at = clock_timestamp()
    RETURNING e.* INTO v_event;
    deliveries := v_event.deliveries;
    account_id := v_event.account_id;
    credits_added := 0;
    IF v_event.deliveries > 1
        AND (NOT billing_data.is_payment_fault(v_event.outcome) OR v_event.resolved_at IS NOT NULL)
    THEN
        outcome := v_event.outcome;
        needs_attention := false;
        RETURN NEXT;
        RETURN;
    END IF;

    SELECT billing_data.provider_mode(c.provider_type, c.config_data) INTO v_mode
    FROM billing_data.provider_configs AS c
    WHERE c.provider_type = p_provider;
    SELECT o.outcome, o.account_id, o.purchase_id INTO STRICT v_owner
    FROM billing_data.owner_of_payment(
        p_provider, p_payment_id, p_account_id, p_purchase_id, p_oauth_provider, p_external_id,
        coalesce(
            p_is_claimed,
            p_action = 'settle' OR num_nonnulls(p_purchase_id, p_oauth_provider, p_external_id) > 0
        ),
        coalesce(p_is_foreign, false)
    ) AS o;
    IF p_action IN ('acknowledge', 'ignore') THEN
        outcome := CASE p_action WHEN 'ignore' THEN 'ignored' ELSE 'acknowledged' END;
    ELSIF p_action = 'warn' THEN
        outcome := billing_data.note_fraud_warning(
            p_provider, p_payment_id, p_warning_id, p_warning_is_open
        );
    ELSIF v_owner.outcome = 'resolved' THEN
        outcome := 'resolved';
    ELSIF (p_livemode <> (v_mode = 'live')) IS TRUE THEN
        outcome := CASE WHEN v_owner.outcome IS NULL THEN 'mode_mismatch' ELSE 'ignored' END;
    ELSIF p_action = 'settle' THEN
        outcome := v_owner.outcome;
        IF outcome IS NULL THEN
            SELECT s.outcome, s.account_id, s.purchase_id, s.credits_added
            INTO STRICT outcome, account_id, purchase_id, credits_added
            FROM billing_data.settle_payment(
                p_provider, p_payment_id, p_amount_minor, p_currency, v_owner.account_id,
                v_owner.purchase_id, v_role, v_writer
            ) AS s;
        END IF;
    ELSIF v_owner.purchase_id IS NOT NULL THEN
        account_id := v_owner.account_id;
        purchase_id := v_owner.purchase_id;
        outcome := CASE p_action WHEN 'unreadable' THEN 'charge_unreadable' ELSE 'unchanged' END;
        FOREACH v_told IN ARRAY v_returns LOOP
            v_outcome := billing_data.return_money(
                p_provider, p_payment_id, v_owner.account_id, v_owner.purchase_id, v_told,
                p_currency, NULL, v_role, v_writer
            );
            -- The outcome of a return that did something, or is at fault, tells more than one that
            -- did nothing.
            IF v_outcome <> 'unchanged' AND NOT billing_data.is_payment_fault(outcome) THEN
                outcome := v_outcome;
            END IF;
        END LOOP;
    ELSE
        -- The payment may yet be credited here, or it never will be.
        outcome := CASE
            WHEN v_owner.outcome IS NULL OR v_owner.outcome = 'account_not_found'
                THEN 'payment_unknown'
            ELSE 'ignored'
        END;
    END IF;
    needs_attention := billing_data.is_payment_fault(outcome);
    UPDATE billing_data.payment_events AS e
    SET outcome = process_payment_event.outcome,
        account_id = process_payment_event.account_id,
        payment_id = coalesce(p_payment_id, e.payment_id),
        -- What is reported of a person who was erased does not bring them back.
        payload = CASE
            WHEN billing_data.is_erased(
                coalesce(v_owner.account_id, billing_data.surviving_account(p_account_id))
            ) THEN billing_data.erased_payload(e.payload, p_payment_id)
            ELSE e.payload
        END
    WHERE e.provider = p_provider AND e.event_id = p_event_id;
    IF v_role IS NOT NULL THEN
        v_actor.database_role := v_role;
        PERFORM billing_data.write_audit(
            'payment_event.process', 'payment_event', p_event_id,
            jsonb_build_object(
                'provider', p_provider, 'event_type', p_event_type, 'payment_id', p_payment_id,
                'outcome', outcome, 'account_id', account_id, 'credits_added', credits_added
            ),
            NULL, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.process_payment_event IS
    'Stores a payment provider''s event once, with its effect. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.process_payment_event TO billing_server, billing_dba;

-- What is known here of a provider's payments, for reconciliation: of the payments named, and of
-- all that were credited since p_since. resolved is true when a person has dealt with the payment.
-- Where nothing was sold for it, nothing else is known of it (status 'resolved').
-- Errors: actor_required.
-- Example: SELECT * FROM billing.list_payments(p_payment_ids => '{pi_1}');
CREATE OR REPLACE FUNCTION billing.list_payments(
    p_payment_ids text[] DEFAULT '{}',
    p_since timestamptz DEFAULT NULL,
    p_provider text DEFAULT billing.default_payment_provider()
) RETURNS TABLE (
    payment_id text,
    account_id uuid,
    purchase_id uuid,
    uses bigint,
    price_minor bigint,
    currency text,
    status text,
    settled_at timestamptz,
    resolved boolean,
    return_ids text[],
    return_statuses text[],
    return_away_minor bigint[]
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    PERFORM billing_data.require_list(
        array_dims(p_payment_ids), cardinality(p_payment_ids), 'p_payment_ids'
    );
    PERFORM billing_data.require_moment(p_since, 'p_since');
    RETURN QUERY
    SELECT
        p.payment_id::text, p.account_id, p.id, p.uses, p.price_minor, p.currency::text,
        billing_data.purchase_status(p), p.settled_at,
        EXISTS (
            SELECT FROM billing_data.payment_effects AS x
            WHERE x.provider = p.provider
                AND x.payment_id = p.payment_id
                AND x.resolved_at IS NOT NULL
        ),
        r.ids, r.statuses, r.away_minor
    FROM billing_data.purchases AS p
    CROSS JOIN LATERAL (
        SELECT
            coalesce(array_agg(n.return_id::text ORDER BY n.return_id), '{}') AS ids,
            coalesce(array_agg(n.status ORDER BY n.return_id), '{}') AS statuses,
            coalesce(array_agg(n.away_minor ORDER BY n.return_id), '{}') AS away_minor
        FROM billing_data.payment_returns AS n
        WHERE n.account_id = p.account_id AND n.purchase_id = p.id
    ) AS r
    WHERE p.provider = p_provider
        AND p.payment_id IS NOT NULL
        AND (p.payment_id = ANY (p_payment_ids) OR p.settled_at >= p_since)
    UNION ALL
    SELECT
        x.payment_id::text, NULL, NULL, NULL, NULL, NULL, 'resolved', NULL, true, '{}', '{}', '{}'
    FROM billing_data.payment_effects AS x
    WHERE x.provider = p_provider
        AND x.payment_id = ANY (p_payment_ids)
        AND x.resolved_at IS NOT NULL
        AND NOT EXISTS (
            SELECT FROM billing_data.purchases AS p
            WHERE p.provider = x.provider AND p.payment_id = x.payment_id
        )
    ORDER BY 1;
END
$$;
COMMENT ON FUNCTION billing.list_payments IS
    'Lists what is known of a provider''s payments and their returns. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_payments TO billing_dba;

-- The conditions of the lists of events, for their statements: $1 is the payment, $2 the event, $3
-- and $4 the days. A filter that is not given has no condition. Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.payment_event_filter(
    p_payment_id text, p_event_id text, p_from date, p_to date
) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kinds text := ' AND e.provider IN (SELECT k.kind FROM billing_data.payment_providers AS k)';
BEGIN
    PERFORM billing_data.require_moment(p_from::timestamptz, 'p_from');
    PERFORM billing_data.require_moment(p_to::timestamptz, 'p_to');
    RETURN 'true'
        || CASE WHEN p_payment_id <> '' THEN v_kinds || ' AND e.payment_id = $1' ELSE '' END
        || CASE WHEN p_event_id <> '' THEN v_kinds || ' AND e.event_id = $2' ELSE '' END
        || CASE WHEN p_from IS NOT NULL
            THEN ' AND e.received_at >= $3::timestamp AT TIME ZONE ''UTC''' ELSE '' END
        || CASE WHEN p_to IS NOT NULL
            THEN ' AND e.received_at < ($4 + 1)::timestamp AT TIME ZONE ''UTC''' ELSE '' END;
END
$$;
COMMENT ON FUNCTION billing_data.payment_event_filter IS
    'The conditions of the lists of events. Helper.';

-- Lists the payment provider's events, without their payloads. p_from and p_to: the UTC days on
-- which they came, both included. With p_reverse, the oldest come first.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_payment_events(p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_payment_events(
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_payment_id text DEFAULT NULL,
    p_event_id text DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_reverse boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    provider text,
    event_id text,
    event_type text,
    payment_id text,
    account_id uuid,
    outcome text,
    needs_attention boolean,
    deliveries bigint,
    livemode boolean,
    received_at timestamptz,
    last_received_at timestamptz,
    resolved_at timestamptz,
    resolution text,
    outcome_words text,
    account text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY EXECUTE
        'SELECT e.provider, e.event_id::text, e.event_type::text, e.payment_id::text,'
        || ' e.account_id, e.outcome,'
        || ' billing_data.is_payment_fault(e.outcome) AND e.resolved_at IS NULL,'
        || ' e.deliveries, e.livemode, e.received_at, e.last_received_at, e.resolved_at,'
        || ' e.resolution, billing_data.payment_outcome_words(e.outcome),'
        || ' (SELECT coalesce(a.customer_email, a.external_id)::text'
        || ' FROM billing_data.accounts AS a WHERE a.id = e.account_id)'
        || ' FROM billing_data.payment_events AS e WHERE '
        || billing_data.payment_event_filter(p_payment_id, p_event_id, p_from, p_to)
        || ' ORDER BY ' || CASE WHEN p_reverse THEN 'e.received_at, e.event_id'
            ELSE 'e.received_at DESC, e.event_id DESC' END
        || ' LIMIT $5 OFFSET $6'
    USING p_payment_id, p_event_id, p_from, p_to, p_limit, p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_payment_events IS
    'Lists the payment provider''s events. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_payment_events TO billing_server, billing_dba;

-- How many events billing.list_payment_events lists for the same filters: at most p_most, and
-- is_more says that there are more. It stops at p_most, so that it is quick however many there are.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.count_payment_events(p_from => '2026-11-01');
CREATE OR REPLACE FUNCTION billing.count_payment_events(
    p_payment_id text DEFAULT NULL,
    p_event_id text DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_most bigint DEFAULT 10000,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (events bigint, is_more boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_where text;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_most(p_most);
    v_where := billing_data.payment_event_filter(p_payment_id, p_event_id, p_from, p_to);
    RETURN QUERY EXECUTE
        'SELECT least(count(*), $5), count(*) > $5'
        || ' FROM (SELECT FROM billing_data.payment_events AS e WHERE ' || v_where
        -- In the list's order, so that the list's index serves.
        || ' ORDER BY e.received_at DESC, e.event_id DESC LIMIT $5 + 1) AS c'
    USING p_payment_id, p_event_id, p_from, p_to, p_most;
END
$$;
COMMENT ON FUNCTION billing.count_payment_events IS
    'Counts the payment provider''s events. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.count_payment_events TO billing_server, billing_dba;
