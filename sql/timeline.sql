-- An account's timeline: what agents asked, what was charged and credited, what was bought and what
-- staff did, in one list, newest first.

-- The kinds of rows that a timeline can show.
CREATE OR REPLACE FUNCTION billing_data.timeline_kinds() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY['check', 'denial', 'charge', 'credit', 'hold', 'purchase', 'staff'];
COMMENT ON FUNCTION billing_data.timeline_kinds IS 'The kinds of a timeline''s rows. Helper.';

-- The entry of the ledger that an audit row tells of: the id of a credit, or of the transfer of
-- which the entry is a side. NULL for an act that wrote no entry.
CREATE OR REPLACE FUNCTION billing_data.entry_of_act(p_changes jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(
    p_changes ->> 'reversal_id', p_changes ->> 'transfer_id', p_changes ->> 'credit_id'
);
COMMENT ON FUNCTION billing_data.entry_of_act IS
    'The entry of the ledger that an audit row tells of. Helper.';

-- Where an entry of an account's ledger comes from that another entry explains: of a side of a
-- transfer {"act": "transfer", "merge" or "undo_merge", "account_id", "account"}, the other account
-- and what people call it; of a reversal {"act": "reversal", "of": "charge" or "credit", "at",
-- "amount", "text"}, the entry that it reverses. p_changes is what the audit row of a transfer has.
-- NULL for other entries.
CREATE OR REPLACE FUNCTION billing_data.origin_of_entry(
    p_account_id uuid, p_transfer_id uuid, p_corrects_id uuid, p_changes jsonb
) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_merge billing_data.account_merges;
    v_other_id uuid := (p_changes ->> 'other_account_id')::uuid;
BEGIN
    IF p_corrects_id IS NOT NULL THEN
        RETURN (
            SELECT jsonb_build_object(
                'act', 'reversal', 'of', r.type, 'at', r.at, 'amount', r.amount, 'text', r.text
            )
            FROM (
                SELECT 'charge', c.created_at, c.amount_minor, c.description
                FROM billing_data.charges AS c
                WHERE c.id = p_corrects_id
                UNION ALL
                SELECT 'credit', c.created_at, c.amount_minor, c.description
                FROM billing_data.credits AS c
                WHERE c.id = p_corrects_id
            ) AS r (type, at, amount, text)
        );
    ELSIF p_transfer_id IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT m.* INTO v_merge
    FROM billing_data.account_merges AS m
    WHERE m.id = p_transfer_id OR m.undo_id = p_transfer_id;
    IF FOUND THEN
        v_other_id := CASE v_merge.account_id
            WHEN p_account_id THEN v_merge.merged_account_id
            ELSE v_merge.account_id
        END;
    END IF;
    RETURN jsonb_build_object(
        'act', CASE p_transfer_id
            WHEN v_merge.id THEN 'merge'
            WHEN v_merge.undo_id THEN 'undo_merge'
            ELSE 'transfer'
        END,
        'account_id', v_other_id,
        'account', (
            SELECT coalesce(a.customer_email, a.external_id)
            FROM billing_data.accounts AS a
            WHERE a.id = v_other_id
        )
    );
END
$$;
COMMENT ON FUNCTION billing_data.origin_of_entry IS
    'The transfer, merge or entry that explains an entry of the ledger. Helper.';

-- What staff and DBAs did to accounts, to their payments, and to refunds and disputes of these
-- payments.
CREATE OR REPLACE FUNCTION billing_data.acts_on_accounts(p_account_ids uuid[])
RETURNS SETOF billing_data.admin_audit_logs
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.*
    FROM (
        SELECT 'account' AS type, u.id::text AS id FROM unnest(p_account_ids) AS u (id)
        UNION
        SELECT 'payment', p.payment_id
        FROM billing_data.purchases AS p
        WHERE p.account_id = ANY (p_account_ids)
        UNION
        SELECT 'payment_return', r.return_id
        FROM billing_data.payment_returns AS r
        WHERE r.account_id = ANY (p_account_ids)
    ) AS t
    INNER JOIN billing_data.admin_audit_logs AS l
        ON l.resource_type = t.type AND l.resource_id = t.id
$$;
COMMENT ON FUNCTION billing_data.acts_on_accounts IS
    'The audit rows of accounts and of their payments. Helper.';

-- Where the entries of a part of an account's ledger come from that another entry explains: sides
-- of transfers and merges, and reversals, each with what billing_data.origin_of_entry says of it.
-- The part is behind the ledger version p_after, up to p_through; the whole ledger without them.
-- Errors: actor errors, account_not_found.
-- Example: SELECT * FROM billing.list_origins(
--     p_account_id => billing.find_account('oauth:google:1'));
CREATE OR REPLACE FUNCTION billing.list_origins(
    p_account_id uuid,
    p_after bigint DEFAULT NULL,
    p_through bigint DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (transaction_id uuid, origin jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    v_account := billing_data.require_account(p_account_id);
    RETURN QUERY
    WITH entries AS MATERIALIZED (
        SELECT
            c.id, c.ledger_version, c.transfer_id,
            coalesce(c.corrects_charge_id, c.corrects_credit_id) AS corrects_id
        FROM billing_data.credits AS c
        WHERE c.account_id = v_account.id AND c.ledger_version > 0
            AND c.ledger_version > coalesce(p_after, 0)
            AND c.ledger_version <= coalesce(p_through, v_account.ledger_version)
            AND num_nonnulls(c.corrects_charge_id, c.corrects_credit_id, c.transfer_id) > 0
    ),
    acts AS (
        SELECT l.changes ->> 'transfer_id' AS transfer_id, l.changes
        FROM billing_data.admin_audit_logs AS l
        WHERE l.resource_type = 'account' AND l.resource_id = v_account.id::text
            AND l.changes ? 'transfer_id'
            AND EXISTS (SELECT FROM entries AS e WHERE e.transfer_id IS NOT NULL)
    )
    SELECT
        e.id,
        billing_data.origin_of_entry(v_account.id, e.transfer_id, e.corrects_id, a.changes)
    FROM entries AS e
    LEFT JOIN acts AS a ON a.transfer_id = e.transfer_id::text
    ORDER BY e.ledger_version;
END
$$;
COMMENT ON FUNCTION billing.list_origins IS
    'Lists where transfers, merges and reversals of a ledger come from. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_origins TO billing_server, billing_dba;

-- What an act changed. Where it was a transfer or merge of the account and another one, with the
-- other account: other_account_id, and other_account, what people call it.
CREATE OR REPLACE FUNCTION billing_data.changes_with_names(p_changes jsonb, p_account_id uuid)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (
            SELECT p_changes || jsonb_build_object(
                'other_account_id', a.id,
                'other_account', coalesce(a.customer_email, a.external_id)
            )
            FROM billing_data.accounts AS a
            WHERE a.id = billing_data.other_account_of_entry(p_changes, p_account_id)
                AND a.id <> p_account_id
        ),
        p_changes
    )
$$;
COMMENT ON FUNCTION billing_data.changes_with_names IS
    'What an act changed, with the other account of a transfer or merge. Helper.';

-- The cursor of a timeline's next page, as clients carry it: the account, and the place of the last
-- row that was shown. That is its time, its rank among rows of one time, its id, and the lowest
-- ledger version that was shown so far: 48 bytes in 64 characters that may stand in a URL.
CREATE OR REPLACE FUNCTION billing_data.timeline_cursor(
    p_account_id uuid, p_at timestamptz, p_rank integer, p_id uuid, p_version bigint
) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN translate(
    encode(
        uuid_send(p_account_id) || int8send((extract(EPOCH FROM p_at) * 1000000)::bigint)
        || uuid_send(p_id) || int8send(p_version * 8 + p_rank),
        'base64'
    ),
    '+/', '-_'
);
COMMENT ON FUNCTION billing_data.timeline_cursor IS
    'The cursor of a timeline''s next page, as clients carry it. Helper.';

-- The place in a cursor; without a cursor, the place before the newest row of an account that has
-- p_newest ledger versions. Errors: invalid_argument unless billing_data.timeline_cursor made the
-- cursor for this account.
CREATE OR REPLACE FUNCTION billing_data.place_of_cursor(
    p_cursor text, p_account_id uuid, p_newest bigint,
    OUT at timestamptz, OUT rank integer, OUT id uuid, OUT version bigint
)
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_bytes bytea := CASE
        WHEN p_cursor ~ '^[A-Za-z0-9_-]{64}$' THEN decode(translate(p_cursor, '-_', '+/'), 'base64')
    END;
    v_micros bigint := ('x' || encode(substr(v_bytes, 17, 8), 'hex'))::bit(64)::bigint;
    v_last bigint := ('x' || encode(substr(v_bytes, 41, 8), 'hex'))::bit(64)::bigint;
BEGIN
    at := 'infinity';
    rank := 0;
    id := '00000000-0000-0000-0000-000000000000';
    version := p_newest + 1;
    IF p_cursor IS NOT NULL THEN
        PERFORM billing_data.require(
            substr(v_bytes, 1, 16) = uuid_send(p_account_id)
            AND v_micros BETWEEN -62135596800000000 AND 253402300799999999
            AND v_last / 8 BETWEEN 0 AND p_newest + 1,
            'p_cursor', 'it must be a next_cursor of this account''s timeline'
        );
        at := timestamptz 'epoch' + v_micros * interval '1 microsecond';
        rank := v_last % 8;
        id := encode(substr(v_bytes, 25, 16), 'hex')::uuid;
        version := v_last / 8;
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.place_of_cursor IS
    'The place in a timeline that a cursor names. Helper.';

-- The smallest id that a row made at p_at or later can have. The time of an id is in milliseconds.
CREATE OR REPLACE FUNCTION billing_data.id_at(p_at timestamptz) RETURNS uuid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE p_at
    WHEN 'infinity' THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid
    WHEN '-infinity' THEN '00000000-0000-0000-0000-000000000000'::uuid
    ELSE billing_data.first_id(
        date_trunc('milliseconds', p_at - interval '1 microsecond') + interval '1 millisecond'
    )
END;
COMMENT ON FUNCTION billing_data.id_at IS
    'The smallest id of a row made at a given time or later, exactly. Helper.';

-- The time in an id that billing_data.new_id made.
CREATE OR REPLACE FUNCTION billing_data.time_of_id(p_id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN timestamptz 'epoch' + interval '1 millisecond'
    * ('x' || encode(substr(uuid_send(p_id), 1, 6), 'hex'))::bit(48)::bigint;
COMMENT ON FUNCTION billing_data.time_of_id IS 'The time in an id. Helper.';

-- The next rows of a timeline after a place (p_at, p_rank, p_id, p_version), as many of each source
-- as are needed for p_limit rows in all. p_account_ids are the account and those merged into it;
-- entries are those of the first of these accounts, above the ledger version p_after. Each source
-- is read from its index, from the place on. Entries keep the order of their versions, which is
-- that of the books. Where the clock was set back, an entry can have a later time than the next
-- one; then it is placed at the time of the next one.
CREATE OR REPLACE FUNCTION billing_data.timeline_places(
    p_account_ids uuid[], p_kinds text[], p_from timestamptz, p_after bigint,
    p_at timestamptz, p_rank integer, p_id uuid, p_version bigint, p_limit bigint
) RETURNS TABLE (
    source text, rank integer, at timestamptz, id uuid, version bigint, what text, reason text,
    api_key_id uuid, admin_user_id uuid, database_role text, amount_minor bigint, currency text,
    paid_credits bigint, free_uses bigint, times bigint, payment_id text, agent_id text,
    channel_id text, request_id text, thing text, changes jsonb
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        'entry', 1, least(p_at, min(e.created_at) OVER (ORDER BY e.ledger_version DESC)), e.id,
        e.ledger_version, NULL, NULL, NULL::uuid, NULL::uuid, NULL, NULL::bigint, NULL,
        NULL::bigint, NULL::bigint, NULL::bigint, NULL, NULL, NULL, NULL, p_account_ids[1]::text,
        NULL::jsonb
    FROM (
        (
            SELECT c.ledger_version, c.created_at, c.id FROM billing_data.charges AS c
            WHERE 'charge' = ANY (p_kinds) AND c.account_id = p_account_ids[1]
                AND c.ledger_version > 0 AND c.ledger_version > p_after
                AND c.ledger_version < p_version
            ORDER BY c.ledger_version DESC LIMIT p_limit
        )
        UNION ALL
        (
            SELECT c.ledger_version, c.created_at, c.id FROM billing_data.credits AS c
            WHERE 'credit' = ANY (p_kinds) AND c.account_id = p_account_ids[1]
                AND c.ledger_version > 0 AND c.ledger_version > p_after
                AND c.ledger_version < p_version
            ORDER BY c.ledger_version DESC LIMIT p_limit
        )
    ) AS e
    UNION ALL
    SELECT
        'check', 2, k.created_at, k.id, NULL,
        CASE WHEN k.has_credit THEN 'allowed' ELSE 'denied' END, k.denial_reason, k.api_key_id,
        NULL, k.database_role, NULL, NULL, k.credits_remaining, k.free_uses_remaining, 1, NULL,
        k.context_agent_id, k.context_channel_id, k.context_request_id, NULL, NULL
    FROM unnest(p_account_ids) AS f (id)
    CROSS JOIN LATERAL (
        SELECT n.* FROM billing_data.credit_checks AS n
        WHERE n.account_id = f.id AND n.created_at >= p_from AND n.created_at <= p_at
            AND (n.created_at < p_at OR (2, p_id) > (p_rank, n.id))
            AND ('check' = ANY (p_kinds) OR ('denial' = ANY (p_kinds) AND NOT n.has_credit))
        ORDER BY n.created_at DESC, n.id DESC LIMIT p_limit
    ) AS k
    UNION ALL
    SELECT
        'refusal', 3, r.last_at, r.id, NULL, 'refused', r.reason, r.api_key_id, NULL,
        r.database_role, r.amount_minor, r.currency, r.paid_credits, r.free_uses_remaining,
        r.refusals, NULL, r.agent_id, r.channel_id, r.request_id, NULL, NULL
    FROM unnest(p_account_ids) AS f (id)
    CROSS JOIN LATERAL (
        SELECT n.*, i.id
        FROM billing_data.refused_charges AS n
        CROSS JOIN LATERAL (
            -- These rows have no id: a digest of what makes one of them unique serves as one.
            SELECT md5(concat_ws(' ', n.account_id, n.minute, n.reason, n.api_key_id))::uuid AS id
        ) AS i
        WHERE 'denial' = ANY (p_kinds) AND n.account_id = f.id
            AND n.minute > p_from - interval '1 minute' AND n.last_at >= p_from
            AND n.minute <= p_at AND n.last_at <= p_at
            AND (n.last_at < p_at OR (3, p_id) > (p_rank, i.id))
        ORDER BY n.minute DESC, n.last_at DESC, i.id DESC LIMIT p_limit
    ) AS r
    UNION ALL
    SELECT
        'purchase', 4, p.created_at, p.id, NULL,
        CASE
            WHEN p.settled_at IS NOT NULL THEN 'settled'
            WHEN p.payment_id IS NOT NULL THEN 'pending'
            ELSE 'offered'
        END,
        NULL, p.api_key_id, p.admin_user_id, p.database_role, p.price_minor, p.currency, p.uses,
        NULL, 1, p.payment_id, NULL, NULL, NULL, NULL, NULL
    FROM billing_data.purchases AS p
    WHERE 'purchase' = ANY (p_kinds) AND p.account_id = ANY (p_account_ids)
        AND p.created_at >= p_from
        AND (p.created_at < p_at OR (p.created_at = p_at AND (4, p_id) > (p_rank, p.id)))
    UNION ALL
    SELECT
        -- Holds are in the order of their ids, which have an index, and at the times in these ids.
        'hold', 6, billing_data.time_of_id(h.id), h.id, NULL,
        CASE
            WHEN h.state = 'open' AND h.expires_at <= billing_data.clock() THEN 'expired'
            ELSE h.state
        END,
        h.description, h.api_key_id, NULL, h.database_role, h.amount_minor, h.currency,
        h.captured_minor, h.free_uses, 1, NULL, h.metadata_agent_id, h.metadata_channel_id,
        h.metadata_request_id, NULL, NULL
    FROM unnest(p_account_ids) AS f (id)
    CROSS JOIN LATERAL (
        SELECT n.* FROM billing_data.holds AS n
        WHERE 'hold' = ANY (p_kinds) AND n.account_id = f.id
            AND n.id >= billing_data.id_at(p_from)
            AND n.id < CASE
                WHEN p_rank < 6 THEN billing_data.id_at(p_at + interval '1 microsecond')
                WHEN p_rank = 6 THEN p_id
                ELSE billing_data.id_at(p_at)
            END
        ORDER BY n.id DESC LIMIT p_limit
    ) AS h
    UNION ALL
    SELECT
        'staff', 5, l.created_at, l.id, NULL, l.action, l.reason, NULL, l.admin_user_id,
        l.database_role, NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, l.resource_id,
        l.changes
    FROM billing_data.acts_on_accounts(p_account_ids) AS l
    WHERE 'staff' = ANY (p_kinds) AND l.created_at >= p_from
        AND (l.created_at < p_at OR (l.created_at = p_at AND (5, p_id) > (p_rank, l.id)))
        -- Where credits are shown, the act that wrote a credit is shown with the credit.
        AND NOT ('credit' = ANY (p_kinds) AND billing_data.entry_of_act(l.changes) IS NOT NULL)
$$;
COMMENT ON FUNCTION billing_data.timeline_places IS
    'The next rows of a timeline after a place, from each source. Helper.';

-- The kinds of rows that a reader asks for, all of them by default.
-- Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.require_timeline_kinds(p_kinds text[]) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_list(array_dims(p_kinds), cardinality(p_kinds), 'p_kinds');
    PERFORM billing_data.require(
        (p_kinds <@ billing_data.timeline_kinds() AND cardinality(p_kinds) > 0) IS NOT FALSE,
        'p_kinds',
        'it must be some of ' || array_to_string(billing_data.timeline_kinds(), ', ')
    );
    RETURN coalesce(p_kinds, billing_data.timeline_kinds());
END
$$;
COMMENT ON FUNCTION billing_data.require_timeline_kinds IS
    'The kinds of rows that a timeline is to show, or a refusal. Helper.';

-- How far back a page of denials looks: at the newest 10,000 checks before a place, because no
-- index tells denied checks from others. -infinity where there are fewer checks.
CREATE OR REPLACE FUNCTION billing_data.reach_of_denials(p_account_ids uuid[], p_at timestamptz)
RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(max(k.created_at), '-infinity')
    FROM unnest(p_account_ids) AS f (id)
    CROSS JOIN LATERAL (
        SELECT n.created_at FROM billing_data.credit_checks AS n
        WHERE n.account_id = f.id AND n.created_at < p_at
        ORDER BY n.created_at DESC
        LIMIT 1 OFFSET 9999
    ) AS k
$$;
COMMENT ON FUNCTION billing_data.reach_of_denials IS
    'How far back a page of an account''s denials looks. Helper.';

-- The place from which a timeline begins with the row of this id: a charge, credit, hold or
-- purchase.
-- Errors: invalid_argument unless it is a row of this account's timeline.
CREATE OR REPLACE FUNCTION billing_data.place_of_row(
    p_account billing_data.accounts, p_account_ids uuid[], p_row_id uuid,
    OUT at timestamptz, OUT rank integer, OUT id uuid, OUT version bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT f.at, f.version INTO at, version
    FROM (
        SELECT c.created_at AS at, c.ledger_version AS version
        FROM billing_data.charges AS c
        WHERE c.id = p_row_id AND c.account_id = (p_account).id AND c.ledger_version > 0
        UNION ALL
        SELECT c.created_at, c.ledger_version
        FROM billing_data.credits AS c
        WHERE c.id = p_row_id AND c.account_id = (p_account).id AND c.ledger_version > 0
        UNION ALL
        SELECT billing_data.time_of_id(h.id), NULL
        FROM billing_data.holds AS h
        WHERE h.id = p_row_id AND h.account_id = ANY (p_account_ids)
        UNION ALL
        SELECT p.created_at, NULL
        FROM billing_data.purchases AS p
        WHERE p.id = p_row_id AND p.account_id = ANY (p_account_ids)
    ) AS f;
    PERFORM billing_data.require(
        FOUND, 'p_row_id', 'it must be a charge, credit, hold or purchase of this account'
    );
    version := 1 + coalesce(
        version,
        billing_data.version_before(
            (p_account).id, (p_account).ledger_version, at + interval '1 microsecond'
        )
    );
    rank := 0;  -- before all rows of that moment
    id := '00000000-0000-0000-0000-000000000000';
END
$$;
COMMENT ON FUNCTION billing_data.place_of_row IS
    'The place in a timeline just before one of its rows. Helper.';

-- Where a page of a timeline begins and how far it may reach: the place of the cursor, or of the
-- row p_row_id where there is no cursor, or the end of the day p_to where that is earlier; the
-- beginning of the day p_from (begins_at), or, for denials alone, how far back they are looked for
-- where that is later (is_cut); and the ledger version before that. Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.timeline_span(
    p_account billing_data.accounts, p_account_ids uuid[], p_kinds text[], p_from date, p_to date,
    p_cursor text, p_row_id uuid,
    OUT at timestamptz, OUT rank integer, OUT id uuid, OUT version bigint,
    OUT begins_at timestamptz, OUT after bigint, OUT is_cut boolean
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_beyond timestamptz;
    v_reach timestamptz;
BEGIN
    PERFORM billing_data.require(
        (d.day BETWEEN '0001-01-01' AND '9999-12-30') IS NOT FALSE, d.argument,
        'it must be a day of the years 1 to 9999'
    )
    FROM (VALUES (p_from, 'p_from'), (p_to, 'p_to')) AS d (day, argument);
    SELECT c.at, c.rank, c.id, c.version INTO STRICT at, rank, id, version
    FROM billing_data.place_of_cursor(
        p_cursor, (p_account).id, (p_account).ledger_version
    ) AS c;
    IF p_cursor IS NULL AND p_row_id IS NOT NULL THEN
        SELECT r.at, r.rank, r.id, r.version INTO STRICT at, rank, id, version
        FROM billing_data.place_of_row(p_account, p_account_ids, p_row_id) AS r;
    END IF;
    v_beyond := (p_to + 1)::timestamp AT TIME ZONE 'UTC';
    IF at >= v_beyond THEN
        at := v_beyond;
        rank := 7;  -- after all rows of that moment, which is not in the period any more
        version := least(
            version,
            billing_data.version_before((p_account).id, (p_account).ledger_version, v_beyond) + 1
        );
    END IF;
    begins_at := coalesce(p_from::timestamp AT TIME ZONE 'UTC', '-infinity');
    is_cut := false;
    IF 'denial' = ANY (p_kinds) AND 'check' <> ALL (p_kinds) THEN
        v_reach := billing_data.reach_of_denials(p_account_ids, at);
        is_cut := v_reach > begins_at;
        begins_at := greatest(begins_at, v_reach);
    END IF;
    after := 0;
    IF begins_at > '-infinity' THEN
        after := billing_data.version_before(
            (p_account).id, (p_account).ledger_version, begins_at
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.timeline_span IS
    'Where a page of a timeline begins, and how far it may reach. Helper.';

-- An account's timeline, newest first: what agents asked (kind check), what was denied or refused
-- (denial), charges, credits, holds, purchases, and what staff and DBAs did to the account or its
-- payments (staff), each with its writer and reason. p_kinds chooses among these: check has all
-- checks, denial the denied checks and the refused charges. p_from and p_to are UTC days, both
-- included. An act that wrote an entry is shown with the entry (audit_id), and has a row of its own
-- only where credits are not shown. audit_thing is what that audit row is about. Accounts that were
-- merged into this one have their checks, refusals, purchases and acts here; their entries are in
-- their own statements (billing.statement with p_follow => false). All refusals of a key and reason
-- within a minute are one row (times). The meaning of some columns depends on the row. what is
-- allowed or denied; refused; charge, free_use, or the type of a credit; the state of a hold;
-- offered, pending or settled; or the act. amount_minor is what a refused charge or a hold asked
-- for, or the price of a purchase; paid_credits and free_uses what the account had then, the
-- credits of a purchase, or what was captured of a hold; left_to_reverse how much of an entry can
-- still be reversed by staff. changes is what an act changed, with the other account of a transfer
-- or merge (other_account_id, other_account); of a side of a transfer or a reversal, where it comes
-- from (billing_data.origin_of_entry).
-- p_row_id begins with the charge, credit, hold or purchase of this id instead of the newest row.
-- Each row has the cursor of the page after its own; it is NULL on the last page. Rows that are
-- added meanwhile do not shift pages. A page costs the same wherever it is, and however many rows
-- the account has: it reads p_limit rows of each source from an index, and at most 10,000 checks
-- where only denials are asked for, so that such a page may be short, or one row with only
-- next_cursor.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.list_timeline(
--     p_account_id => billing.find_account('oauth:google:1'), p_kinds => '{denial,staff}');
CREATE OR REPLACE FUNCTION billing.list_timeline(
    p_account_id uuid,
    p_kinds text[] DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_cursor text DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_row_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    kind text,
    at timestamptz,
    id uuid,
    what text,
    reason text,
    writer_kind text,
    writer text,
    credits_change bigint,
    free_uses_change bigint,
    balance_after bigint,
    amount_minor bigint,
    currency text,
    amount_text text,
    paid_credits bigint,
    free_uses bigint,
    times bigint,
    payment_id text,
    message_id text,
    agent_id text,
    channel_id text,
    request_id text,
    corrects_id uuid,
    left_to_reverse bigint,
    audit_id uuid,
    audit_thing text,
    changes jsonb,
    next_cursor text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_ids uuid[];
    v_kinds text[];
    v_span record;
    v_cut text;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require(p_limit > 0 AND p_limit <= 500, 'p_limit', 'it must be 1 to 500');
    v_kinds := billing_data.require_timeline_kinds(p_kinds);
    v_account := billing_data.require_account(p_account_id);
    v_ids := billing_data.merged_family(v_account.id);
    SELECT s.* INTO STRICT v_span
    FROM billing_data.timeline_span(
        v_account, v_ids, v_kinds, p_from, p_to, p_cursor, p_row_id
    ) AS s;
    IF v_span.is_cut THEN
        v_cut := billing_data.timeline_cursor(
            v_account.id, v_span.begins_at, 7, v_span.id, v_span.after + 1
        );
    END IF;
    RETURN QUERY
    WITH places AS MATERIALIZED (
        SELECT p.*, row_number() OVER w AS place, min(p.version) OVER w AS lowest
        FROM billing_data.timeline_places(
            v_ids, v_kinds, v_span.begins_at, v_span.after, v_span.at, v_span.rank, v_span.id,
            v_span.version, p_limit + 1
        ) AS p
        WINDOW w AS (ORDER BY p.at DESC, p.rank, p.version DESC, p.id DESC)
        ORDER BY p.at DESC, p.rank, p.version DESC, p.id DESC
        LIMIT p_limit + 1
    ),
    acts AS (
        SELECT
            a.id, a.changes, billing_data.entry_of_act(a.changes) AS entry,
            a.resource_id = v_account.id::text AS is_own
        FROM billing_data.acts_on_accounts(v_ids) AS a
        WHERE 'credit' = ANY (v_kinds) AND billing_data.entry_of_act(a.changes) IS NOT NULL
    )
    SELECT
        CASE p.source
            WHEN 'entry' THEN e.type
            WHEN 'refusal' THEN 'denial'
            ELSE p.source
        END,
        CASE p.source WHEN 'entry' THEN e.created_at ELSE p.at END,
        p.id,
        CASE
            WHEN p.source <> 'entry' THEN p.what
            WHEN e.paid_with = 'free' THEN 'free_use'
            ELSE coalesce(e.transaction_type, e.type)
        END,
        coalesce(p.reason, e.description),
        coalesce(
            e.writer_kind,
            billing_data.writer_kind(
                p.api_key_id, p.admin_user_id, NULL, p.database_role = 'legacy'
            )
        ),
        coalesce(
            e.writer,
            billing_data.writer_name(k.name, k.key_prefix, u.email, NULL, p.database_role)
        ),
        e.credits_change, e.free_uses_change, e.balance_after, p.amount_minor,
        coalesce(p.currency, e.currency),
        CASE p.source
            WHEN 'purchase' THEN billing_data.money_text(p.amount_minor, p.currency)
        END,
        p.paid_credits, p.free_uses, p.times, coalesce(p.payment_id, e.external_transaction_id),
        e.message_id, coalesce(p.agent_id, e.agent_id), coalesce(p.channel_id, e.channel_id),
        coalesce(p.request_id, e.request_id), e.corrects_id,
        CASE
            WHEN num_nonnulls(e.corrects_id, e.transfer_id) = 0
                AND e.transaction_type IS DISTINCT FROM 'purchase'
                AND e.writer_kind <> 'old_service'
                THEN greatest(abs(e.amount_minor) - coalesce(r.reversed_minor, 0), 0)
            ELSE 0
        END,
        CASE p.source WHEN 'staff' THEN p.id ELSE t.audit_id END,
        p.thing,
        coalesce(
            billing_data.changes_with_names(p.changes, v_account.id),
            billing_data.origin_of_entry(v_account.id, e.transfer_id, e.corrects_id, t.changes)
        ),
        CASE
            WHEN EXISTS (SELECT FROM places AS n WHERE n.place > p_limit) THEN (
                SELECT billing_data.timeline_cursor(
                    v_account.id, n.at, n.rank, n.id, coalesce(n.lowest, v_span.version)
                )
                FROM places AS n
                WHERE n.place = p_limit
            )
            ELSE v_cut
        END
    FROM places AS p
    LEFT JOIN LATERAL billing_data.list_entries(v_account.id, p.version - 1, p.version) AS e
        ON p.source = 'entry'
    LEFT JOIN billing_data.reversed_entries AS r ON r.entry_id = e.transaction_id
    LEFT JOIN billing_data.api_keys AS k ON k.id = p.api_key_id
    LEFT JOIN billing_data.admin_users AS u ON u.id = p.admin_user_id
    LEFT JOIN LATERAL (
        SELECT a.id AS audit_id, a.changes FROM acts AS a
        WHERE a.entry IN (e.transaction_id::text, e.transfer_id::text)
        ORDER BY a.is_own DESC  -- the other side may be of an account that was merged into this one
        LIMIT 1
    ) AS t ON p.source = 'entry'
    WHERE p.place <= p_limit
    ORDER BY p.place;
    IF NOT FOUND AND v_cut IS NOT NULL THEN
        next_cursor := v_cut;
        RETURN NEXT;
    END IF;
END
$$;
COMMENT ON FUNCTION billing.list_timeline IS
    'Lists what happened to an account, newest first. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_timeline TO billing_server, billing_dba;

-- How often an account was charged, and how many of its paid credits were used, by UTC day: the
-- p_days days up to today, oldest first. It does not read the charges. The places of two midnights
-- in the ledger tell how many entries a day has, and their balances tell what was used, together
-- with the credits of the day. So it costs the same for an account of a million charges. Days
-- before the books of an account that was taken over begin have no figures.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.list_account_days(
--     p_account_id => billing.find_account('oauth:google:1'), p_days => 7);
CREATE OR REPLACE FUNCTION billing.list_account_days(
    p_account_id uuid,
    p_days integer DEFAULT 30,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (day date, charges bigint, credits_used numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_first date;
    v_opened_at bigint;
    v_opened_with bigint;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require(p_days BETWEEN 1 AND 366, 'p_days', 'it must be 1 to 366');
    v_account := billing_data.require_account(p_account_id);
    v_first := (clock_timestamp() AT TIME ZONE 'UTC')::date - (p_days - 1);
    SELECT coalesce(max(o.ledger_version), 0), coalesce(max(o.paid_credits), 0)
    INTO STRICT v_opened_at, v_opened_with
    FROM billing_data.ledger_openings AS o
    WHERE o.account_id = v_account.id;
    RETURN QUERY
    WITH midnights AS MATERIALIZED (
        -- Today has no end yet: it has all entries up to the newest.
        SELECT
            g.n,
            CASE g.n
                WHEN p_days THEN v_account.ledger_version
                ELSE greatest(
                    v_opened_at,
                    billing_data.version_before(
                        v_account.id, v_account.ledger_version,
                        (v_first + g.n)::timestamp AT TIME ZONE 'UTC'
                    )
                )
            END AS version
        FROM generate_series(0, p_days) AS g (n)
    ),
    balances AS MATERIALIZED (
        SELECT
            m.n, m.version,
            CASE m.version
                WHEN v_opened_at THEN v_opened_with
                ELSE coalesce(
                    (
                        SELECT c.balance_after FROM billing_data.charges AS c
                        WHERE c.account_id = v_account.id AND c.ledger_version > 0
                            AND c.ledger_version = m.version
                    ),
                    (
                        SELECT c.balance_after FROM billing_data.credits AS c
                        WHERE c.account_id = v_account.id AND c.ledger_version > 0
                            AND c.ledger_version = m.version
                    )
                )
            END AS balance
        FROM midnights AS m
    )
    SELECT
        v_first + b.n, e.version - b.version - c.credits,
        b.balance - e.balance + c.amount
    FROM balances AS b
    INNER JOIN balances AS e ON e.n = b.n + 1
    CROSS JOIN LATERAL (
        SELECT count(*) AS credits, coalesce(sum(k.amount_minor), 0) AS amount
        FROM billing_data.credits AS k
        WHERE k.account_id = v_account.id AND k.ledger_version > 0
            AND k.ledger_version > b.version AND k.ledger_version <= e.version
    ) AS c
    ORDER BY b.n;
END
$$;
COMMENT ON FUNCTION billing.list_account_days IS
    'Lists an account''s charges and used credits by UTC day. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_account_days TO billing_server, billing_dba;
