-- Caps and holds: a hold counts towards caps when it is made. When it is settled, what was captured
-- counts instead.

-- A list of holds as caps see it. Where an account was merged, the identity is that of the account
-- it leads to.
CREATE OR REPLACE FUNCTION billing_data.holds_for_caps(p_items billing.hold_item[])
RETURNS billing_data.cap_request[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(
        ROW(
            coalesce(a.oauth_provider, (i.asked).oauth_provider),
            coalesce(a.external_id, (i.asked).external_id), (i.asked).amount_minor,
            (i.asked).currency, NULL, (i.asked).metadata_agent_id, (i.asked).api_key_id
        )::billing_data.cap_request
        ORDER BY i.item
    )
    FROM (
        SELECT asked, row_number() OVER () AS item FROM unnest(p_items) AS asked
    ) AS i
    LEFT JOIN billing_data.accounts AS n
        ON n.oauth_provider = (i.asked).oauth_provider AND n.external_id = (i.asked).external_id
    LEFT JOIN billing_data.accounts AS a
        ON a.id = billing_data.account_to_hold(n.id, n.status)
$$;
COMMENT ON FUNCTION billing_data.holds_for_caps IS 'A list of holds as caps see it. Helper.';

-- A list of captures as caps see it: an item's amount is what its capture asks for beyond the hold,
-- 0 where that is nothing. NULL when no capture asks for more than its hold.
CREATE OR REPLACE FUNCTION billing_data.overages_for_caps(p_items billing.capture_item[])
RETURNS billing_data.cap_request[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN bool_or(n.more > 0) THEN array_agg(
        ROW(
            a.oauth_provider, a.external_id, n.more, NULL, NULL, h.metadata_agent_id,
            coalesce(k.credential, k.id)
        )::billing_data.cap_request
        ORDER BY i.item
    ) END
    FROM (
        SELECT asked, row_number() OVER () AS item FROM unnest(p_items) AS asked
    ) AS i
    LEFT JOIN billing_data.holds AS h ON h.id = (i.asked).hold_id
    LEFT JOIN billing_data.accounts AS a ON a.id = billing_data.surviving_account(h.account_id)
    LEFT JOIN billing_data.api_keys AS k ON k.id = h.api_key_id
    CROSS JOIN LATERAL (
        SELECT greatest(coalesce((i.asked).amount_minor, 0) - h.amount_minor, 0)
    ) AS n (more)
$$;
COMMENT ON FUNCTION billing_data.overages_for_caps IS
    'What captures ask for beyond their holds, for caps. Helper.';

-- How much more the hard caps that apply to a hold allow; NULL when none applies.
CREATE OR REPLACE FUNCTION billing_data.cap_room(p_hold billing_data.holds, p_now timestamptz)
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(greatest(c.limit_minor - coalesce(u.used_minor, 0), 0))
    FROM billing_data.caps_of(
        billing_data.surviving_account((p_hold).account_id), (p_hold).api_key_id,
        (p_hold).metadata_agent_id
    ) AS c
    LEFT JOIN billing_data.cap_usage AS u
        ON u.cap_id = c.id AND u.window_start = billing_data.window_start(c.period, p_now)
    WHERE c.mode = 'hard'
$$;
COMMENT ON FUNCTION billing_data.cap_room IS
    'How much more caps allow to capture than is held. Helper.';

-- Gives back to the caps what was held and not captured, and counts what was captured beyond. A
-- hold counts from when it is made. A hold that ends unsettled goes on counting, since it can be
-- captured late; its release gives its amount back. The caller holds the accounts and, where more
-- was captured than held, the caps.
-- Locks and writes: as billing_data.give_back_to_caps.
CREATE OR REPLACE FUNCTION billing_data.settle_caps_of_holds(
    p_hold_ids uuid[], p_now timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_back jsonb;
BEGIN
    IF NOT EXISTS (SELECT FROM billing_data.caps) THEN
        RETURN;
    END IF;
    SELECT jsonb_agg(jsonb_build_object(
        'account_id',
        CASE WHEN d.difference > 0 THEN h.account_id
            ELSE billing_data.surviving_account(h.account_id) END,
        'api_key_id', h.api_key_id, 'agent_id', h.metadata_agent_id, 'amount', d.difference,
        'counted_at', CASE WHEN d.difference > 0 THEN h.created_at ELSE h.settled_at END
    ))
    INTO v_back
    FROM billing_data.holds AS h
    CROSS JOIN LATERAL (
        SELECT h.amount_minor - coalesce(h.captured_minor, 0)
    ) AS d (difference)
    WHERE h.id = ANY (p_hold_ids) AND h.state IN ('captured', 'released') AND d.difference <> 0;
    PERFORM billing_data.give_back_to_caps(v_back, p_now);
END
$$;
COMMENT ON FUNCTION billing_data.settle_caps_of_holds IS
    'Makes caps count what was captured of holds, not what was held. Helper.';
