-- Seals: a proof, kept beside the entries, that the entries up to a day are still as they were
-- written. A day that is over is sealed account by account: a seal has a range of an account's
-- versions, chains to the account's seal before, and is a SHA-256 of every column of every entry.
-- The head of a day is a SHA-256 of all its seals and of the head before. Somebody who may write
-- every table can make all seals and heads anew; then only a head that was exported before shows
-- it.

-- The leaves of an account's entries after one version up to another. p_salt is the account's.
CREATE OR REPLACE FUNCTION billing_data.entry_leaves(
    p_account_id uuid, p_after bigint, p_through bigint, p_salt bytea
)
RETURNS TABLE (ledger_version bigint, created_at timestamptz, leaf bytea)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT
        c.ledger_version, c.created_at,
        billing_data.charge_leaf(
            c, coalesce(e.personal_digest, billing_data.charge_personal_digest(c, p_salt))
        )
    FROM billing_data.charges AS c
    LEFT JOIN billing_data.erased_entries AS e
        ON e.account_id = c.account_id AND e.ledger_version = c.ledger_version
    WHERE c.account_id = p_account_id
        AND c.ledger_version > 0
        AND c.ledger_version > p_after
        AND c.ledger_version <= p_through
    UNION ALL
    SELECT
        c.ledger_version, c.created_at,
        billing_data.credit_leaf(
            c, coalesce(e.personal_digest, billing_data.credit_personal_digest(c, p_salt))
        )
    FROM billing_data.credits AS c
    LEFT JOIN billing_data.erased_entries AS e
        ON e.account_id = c.account_id AND e.ledger_version = c.ledger_version
    WHERE c.account_id = p_account_id
        AND c.ledger_version > 0
        AND c.ledger_version > p_after
        AND c.ledger_version <= p_through;
END;
COMMENT ON FUNCTION billing_data.entry_leaves IS
    'What is sealed of each of an account''s entries. Helper.';

-- The digest of a seal: a SHA-256 of the account's seal before, of what the seal is about, and of
-- the leaves of its entries.
CREATE OR REPLACE FUNCTION billing_data.seal_digest(
    p_previous bytea,
    p_account_id uuid,
    p_day date,
    p_first_version bigint,
    p_last_version bigint,
    p_leaves bytea
) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(
    coalesce(p_previous, ''::bytea) || uuid_send(p_account_id) || date_send(p_day)
    || int8send(p_first_version) || int8send(p_last_version) || p_leaves
);
COMMENT ON FUNCTION billing_data.seal_digest IS 'The digest of a seal. Helper.';

-- The first moment after a UTC day.
CREATE OR REPLACE FUNCTION billing_data.end_of_day(p_day date) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (p_day + 1)::timestamp AT TIME ZONE 'UTC';
COMMENT ON FUNCTION billing_data.end_of_day IS 'The first moment after a UTC day. Helper.';

-- The newest day that can be sealed by now. A day can be sealed an hour after its end, when every
-- call that began in it has long been committed or undone.
CREATE OR REPLACE FUNCTION billing_data.newest_day_over() RETURNS date
LANGUAGE sql STABLE
RETURN ((clock_timestamp() - interval '1 hour') AT TIME ZONE 'UTC')::date - 1;
COMMENT ON FUNCTION billing_data.newest_day_over IS
    'The newest day that can be sealed by now. Helper.';

-- Computes the head of a day from its seals and the head before it.
CREATE OR REPLACE FUNCTION billing_data.compute_head(
    p_day date, p_previous bytea, OUT seals bigint, OUT entries bigint, OUT head bytea
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_digests bytea;
BEGIN
    SELECT
        count(*), coalesce(sum(s.last_version - s.first_version + 1), 0),
        coalesce(string_agg(s.digest, ''::bytea ORDER BY s.account_id, s.last_version), '')
    INTO STRICT seals, entries, v_digests
    FROM billing_data.seals AS s
    WHERE s.day = p_day;
    head := sha256(
        coalesce(p_previous, '') || date_send(p_day) || int8send(seals) || int8send(entries)
        || v_digests
    );
END
$$;
COMMENT ON FUNCTION billing_data.compute_head IS
    'The head of a day, from its seals and the head before. Helper.';

-- Seals the next accounts of the range after p_after: their entries up to the end of p_day, at most
-- about p_entries of them. Returns the last account it looked at (NULL after the last one of all)
-- and what it sealed. An account with more entries than that is sealed in parts.
CREATE OR REPLACE FUNCTION billing_data.seal_accounts(
    p_day date, p_after uuid, p_entries bigint,
    OUT through uuid, OUT seals bigint, OUT entries bigint
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = 'force_custom_plan'
AS $$
DECLARE
    v_accounts uuid[];
    v_sealed bigint[];
    v_is_cut boolean;
BEGIN
    -- To look at an account costs about as much as to make a leaf, so accounts count like entries.
    SELECT
        (array_agg(r.id ORDER BY r.id DESC))[1],
        array_agg(r.id ORDER BY r.id) FILTER (WHERE r.due > 0),
        array_agg(r.last_version ORDER BY r.id) FILTER (WHERE r.due > 0),
        bool_or(r.due > p_entries)
    INTO STRICT through, v_accounts, v_sealed, v_is_cut
    FROM (
        SELECT
            a.id, n.last_version, a.ledger_version - n.last_version AS due,
            sum(1 + a.ledger_version - n.last_version) OVER (ORDER BY a.id) AS work,
            row_number() OVER (ORDER BY a.id) AS place
        FROM (
            SELECT n.id, n.ledger_version FROM billing_data.accounts AS n
            WHERE p_after IS NULL OR n.id > p_after
            ORDER BY n.id
            LIMIT p_entries
        ) AS a
        CROSS JOIN LATERAL (
            SELECT coalesce(max(s.last_version), 0) AS last_version
            FROM billing_data.seals AS s
            WHERE s.account_id = a.id
        ) AS n
    ) AS r
    WHERE r.work <= p_entries + 1 OR r.place = 1;
    -- This is a statement of its own, because the next one must see salts that others made and
    -- deleted.
    INSERT INTO billing_data.seal_salts (account_id)
    SELECT u.id FROM unnest(v_accounts) AS u (id)
    ON CONFLICT ON CONSTRAINT seal_salts_pkey DO NOTHING;
    WITH due AS (
        SELECT
            u.account_id, u.last_version, t.ledger_version, t.leaf, s.digest AS previous,
            max(t.ledger_version) FILTER (
                WHERE t.created_at < billing_data.end_of_day(p_day)
            ) OVER (PARTITION BY u.account_id) AS newest
        FROM unnest(v_accounts, v_sealed) AS u (account_id, last_version)
        LEFT JOIN billing_data.seal_salts AS k ON k.account_id = u.account_id
        LEFT JOIN billing_data.seals AS s
            ON s.account_id = u.account_id AND s.last_version = u.last_version
        CROSS JOIN LATERAL billing_data.entry_leaves(
            u.account_id, u.last_version, u.last_version + p_entries, k.salt
        ) AS t
    ),
    made AS (
        INSERT INTO billing_data.seals AS s (
            account_id, day, first_version, last_version, leaves, digest
        )
        SELECT
            d.account_id, p_day, d.last_version + 1, d.newest,
            string_agg(substring(d.leaf FOR 8), ''::bytea ORDER BY d.ledger_version),
            billing_data.seal_digest(
                d.previous, d.account_id, p_day, d.last_version + 1, d.newest,
                string_agg(d.leaf, ''::bytea ORDER BY d.ledger_version)
            )
        FROM due AS d
        WHERE d.ledger_version <= d.newest
        GROUP BY d.account_id, d.last_version, d.newest, d.previous
        RETURNING s.account_id, s.last_version - s.first_version + 1 AS entries
    )
    SELECT count(*), coalesce(sum(m.entries), 0),
        -- The rest of an account that was sealed in part comes next.
        CASE WHEN v_is_cut AND bool_or(m.entries >= p_entries) THEN p_after ELSE through END
    INTO STRICT seals, entries, through
    FROM made AS m;
END
$$;
COMMENT ON FUNCTION billing_data.seal_accounts IS
    'Seals the entries of the next accounts up to the end of a day. Helper.';

-- Seals about p_entries entries of days that are over, and closes a day's head after its last seal.
-- Call it again while it returns a row. It returns none when everything is sealed, while another
-- session seals, and during a pause: with p_percent below 100, each call is followed by a pause
-- that keeps all calls together to this share of the time. Sealing locks no account and no entry.
-- Locks: seal_state, if it is free. Writes: seals 1 per account and day, seal_salts 1 per account,
-- seal_heads 1 per day. No actor is needed: the web tier calls it by itself.
-- Errors: invalid_argument. Example: SELECT * FROM billing.seal_entries();
CREATE OR REPLACE FUNCTION billing.seal_entries(
    p_entries bigint DEFAULT 2000, p_percent integer DEFAULT 100
)
RETURNS TABLE (day date, seals bigint, entries bigint, head text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_begun timestamptz := clock_timestamp();
    v_state billing_data.seal_state;
    v_newest billing_data.seal_heads;
    v_made record;
BEGIN
    PERFORM billing_data.require(
        p_entries BETWEEN 1 AND 1000000, 'p_entries', 'it must be 1 to 1000000'
    );
    PERFORM billing_data.require(
        p_percent BETWEEN 1 AND 100, 'p_percent', 'it must be 1 to 100'
    );
    SELECT s.* INTO v_state  -- noqa: AM04
    FROM billing_data.seal_state AS s
    WHERE p_percent = 100 OR s.next_at <= v_begun
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT h.* INTO v_newest  -- noqa: AM04
    FROM billing_data.seal_heads AS h ORDER BY h.day DESC LIMIT 1;
    day := coalesce(v_newest.day + 1, v_state.day, billing_data.newest_day_over());
    IF day > billing_data.newest_day_over() THEN
        RETURN;
    END IF;
    IF v_state.day IS DISTINCT FROM day THEN
        v_state.after := NULL;
    END IF;
    SELECT m.through, m.seals, m.entries INTO STRICT v_made
    FROM billing_data.seal_accounts(day, v_state.after, p_entries) AS m;
    seals := v_made.seals;
    entries := v_made.entries;
    IF v_made.through IS NULL AND v_made.seals = 0 THEN
        INSERT INTO billing_data.seal_heads AS h (day, seals, entries, head, closed_at)
        SELECT day, c.seals, c.entries, c.head, clock_timestamp()
        FROM billing_data.compute_head(day, v_newest.head) AS c
        RETURNING h.seals, h.entries, encode(h.head, 'hex') INTO STRICT seals, entries, head;
    END IF;
    UPDATE billing_data.seal_state AS s
    SET
        day = seal_entries.day,
        after = v_made.through,
        next_at = clock_timestamp() + (clock_timestamp() - v_begun) * (100.0 / p_percent - 1);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.seal_entries IS
    'Seals the next entries of days that are over. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.seal_entries TO billing_server, billing_dba;

-- The heads of sealed days after a day, oldest first. Keep them elsewhere, and compare the copy
-- with them later. Errors: actor_required, invalid_argument.
-- Example: SELECT * FROM billing.list_seal_heads(p_after => current_date - 7);
CREATE OR REPLACE FUNCTION billing.list_seal_heads(p_after date DEFAULT NULL)
RETURNS TABLE (day date, head text, seals bigint, entries bigint, closed_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    PERFORM billing_data.require_moment(p_after::timestamptz, 'p_after');
    RETURN QUERY
    SELECT h.day, encode(h.head, 'hex'), h.seals, h.entries, h.closed_at
    FROM billing_data.seal_heads AS h
    WHERE p_after IS NULL OR h.day > p_after
    ORDER BY h.day;
END
$$;
COMMENT ON FUNCTION billing.list_seal_heads IS
    'Lists the heads of sealed days, to be kept elsewhere. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_seal_heads TO billing_dba;

-- The seals of a day, by account. Keep them with the day's head: where somebody made all seals
-- anew, the copy tells which entry is not as it was. leaves has 16 digits per entry. Errors:
-- actor_required, invalid_argument.
-- Example: SELECT * FROM billing.list_seals(p_day => current_date - 1);
CREATE OR REPLACE FUNCTION billing.list_seals(p_day date)
RETURNS TABLE (
    account_id uuid, first_version bigint, last_version bigint, leaves text, digest text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    PERFORM billing_data.require_moment(p_day::timestamptz, 'p_day');
    RETURN QUERY
    SELECT
        s.account_id, s.first_version, s.last_version, encode(s.leaves, 'hex'),
        encode(s.digest, 'hex')
    FROM billing_data.seals AS s
    WHERE s.day = p_day
    ORDER BY s.account_id, s.last_version;
END
$$;
COMMENT ON FUNCTION billing.list_seals IS
    'Lists the seals of a day, to be kept with its head. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_seals TO billing_dba;
