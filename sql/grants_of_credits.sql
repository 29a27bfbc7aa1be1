-- Credits for many accounts at once, from a list in CSV.

-- The fields of a line of CSV. A field with a comma stands in quotes.
CREATE OR REPLACE FUNCTION billing_data.csv_fields(p_line text) RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT
            CASE
                WHEN starts_with(m.field[1], '"')
                    THEN replace(substr(m.field[1], 2, length(m.field[1]) - 2), '""', '"')
                ELSE btrim(m.field[1])
            END
        FROM regexp_matches(p_line || ',', '("(?:[^"]|"")*"|[^,"]*),', 'g') AS m (field)
    );
$$;
COMMENT ON FUNCTION billing_data.csv_fields IS 'The fields of a line of CSV. Helper.';

-- The lines of CSV that are not empty, with their numbers, without the byte order mark that some
-- programs write and the CR of others. A field cannot have a line end.
CREATE OR REPLACE FUNCTION billing_data.csv_lines(p_csv text)
RETURNS TABLE (line bigint, fields text[])
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.place, billing_data.csv_fields(l.text)
    FROM string_to_table(translate(p_csv, chr(13) || chr(65279), ''), chr(10)) WITH ORDINALITY
        AS l (text, place)
    WHERE l.text <> ''
    ORDER BY l.place;
$$;
COMMENT ON FUNCTION billing_data.csv_lines IS 'The lines of CSV that are not empty. Helper.';

-- The columns that the first line of CSV names.
CREATE OR REPLACE FUNCTION billing_data.csv_names(p_csv text) RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_to_array(lower(array_to_string(l.fields, ',', '?')), ',')
    FROM billing_data.csv_lines(p_csv) AS l
    LIMIT 1;
$$;
COMMENT ON FUNCTION billing_data.csv_names IS 'The columns that CSV names. Helper.';

-- Reads CSV whose first line names the columns. Returns the number of each other line and its
-- fields by the names of the columns; no fields when there are too few or too many.
CREATE OR REPLACE FUNCTION billing_data.read_csv(p_csv text)
RETURNS TABLE (line bigint, fields jsonb)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        l.line,
        CASE
            WHEN cardinality(l.fields) = cardinality(h.names) THEN jsonb_object(h.names, l.fields)
        END
    FROM (SELECT billing_data.csv_names(p_csv) AS names) AS h
    CROSS JOIN billing_data.csv_lines(p_csv) AS l
    OFFSET 1;
$$;
COMMENT ON FUNCTION billing_data.read_csv IS 'Reads CSV with named columns. Helper.';

-- The time that a field of CSV names: a UTC day, which means its beginning, or a time like
-- 2026-12-31T12:00:00Z. Errors: invalid_argument, and 22008 for a day that there is not.
CREATE OR REPLACE FUNCTION billing_data.csv_moment(p_text text, p_argument text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        (
            p_text ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?Z)?$'
        ) IS NOT FALSE,
        p_argument, 'it must be a day like 2026-12-31, or a time like 2026-12-31T12:00:00Z'
    );
    RETURN translate(p_text, 'TZ', ' ')::timestamp AT TIME ZONE 'UTC';
END
$$;
COMMENT ON FUNCTION billing_data.csv_moment IS 'The time that a field of CSV names. Helper.';

-- The lines of a list of grants, with the accounts they name and the keys under which they are
-- made. asked_id is the account as the line names it, account_id the one that it was merged into
-- since. The key has a part of the first, so that a list may name an account by its id or by its
-- identity; and the number of the line among those of its account, unless the list has keys.
CREATE OR REPLACE FUNCTION billing_data.read_grants(p_csv text, p_key_prefix text)
RETURNS TABLE (
    line bigint, named text, asked_id uuid, account_id uuid, amount numeric, key text,
    expires_at text
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        r.line, r.named, r.asked_id,
        (
            SELECT a.id FROM billing_data.accounts AS a
            WHERE a.id = billing_data.surviving_account(r.asked_id)
        ),
        r.amount,
        concat_ws(
            '-', p_key_prefix, right(r.asked_id::text, 12),
            coalesce(r.key, row_number() OVER (PARTITION BY r.asked_id ORDER BY r.line)::text)
        ),
        r.expires_at
    FROM (
        SELECT
            coalesce(substring(c.fields ->> 'line' FROM '^[0-9]{1,18}$')::bigint, c.line) AS line,
            coalesce(
                nullif(c.fields ->> 'account_id', ''),
                (c.fields ->> 'oauth_provider') || ',' || (c.fields ->> 'external_id')
            ) AS named,
            CASE
                WHEN coalesce(c.fields ->> 'account_id', '') = '' THEN (
                    SELECT a.id
                    FROM billing_data.accounts AS a
                    WHERE a.oauth_provider = c.fields ->> 'oauth_provider'
                        AND a.external_id = c.fields ->> 'external_id'
                )
                WHEN billing_data.is_uuid(c.fields ->> 'account_id')
                    THEN (c.fields ->> 'account_id')::uuid
            END AS asked_id,
            CASE
                WHEN c.fields ->> 'amount' ~ '^[0-9]{1,19}$'
                    THEN (c.fields ->> 'amount')::numeric
            END AS amount,
            nullif(c.fields ->> 'key', '') AS key,
            nullif(c.fields ->> 'expires_at', '') AS expires_at
        FROM billing_data.read_csv(p_csv) AS c
    ) AS r
    ORDER BY r.line;
$$;
COMMENT ON FUNCTION billing_data.read_grants IS 'The lines of a list of grants. Helper.';

-- Refuses a list of grants whose columns are not the right ones, or which is too long.
CREATE OR REPLACE FUNCTION billing_data.require_csv(p_csv text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_names text[] := billing_data.csv_names(p_csv);
BEGIN
    PERFORM billing_data.require(
        'amount' = ANY (v_names)
        AND ('account_id' = ANY (v_names) OR v_names @> ARRAY['oauth_provider', 'external_id']),
        'p_csv',
        'its first line must name the columns account_id, or oauth_provider and external_id;'
        ' and amount'
    );
    PERFORM billing_data.require(
        length(p_csv) - length(replace(p_csv, chr(10), '')) <= billing_data.most('items'),
        'p_csv', format('it must have at most %s lines', billing_data.most('items'))
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_csv IS
    'Raises invalid_argument unless a list of grants has the right columns. Helper.';

-- Gives credits by a list in CSV. Its first line names the columns: account_id, or oauth_provider
-- and external_id; and amount, which is above 0; and, if the credits end, expires_at: a UTC day,
-- at whose beginning they do, or a time like 2026-12-31T12:00:00Z. A line that is bad, or is
-- refused, does not stop the others: each has its outcome, which is granted, replayed (it was
-- granted before), would_grant with p_dry_run, or why it was not. A line is granted once for its
-- account and p_key_prefix, as often as the same list, or a corrected one, is given; the second
-- line of an account is another grant. A dry run tells each balance as if the line were alone. Up
-- to 50,000 lines; for more, and for a commit after each thousand: `ciris-billing accounts grant`.
-- Locks: the accounts, in id order. Writes: accounts 1, credits 1, admin_audit_logs 1 for each line
-- that is granted. Errors: actor_required, invalid_argument; lock_not_available (55P03) when an
-- account stays held, and then nothing was done.
-- Example: SELECT * FROM billing.grant_credits(p_reason => 'an outage', p_key_prefix => 'outage',
--     p_csv => concat_ws(chr(10), 'oauth_provider,external_id,amount', 'oauth:google,1,5'));
CREATE OR REPLACE FUNCTION billing.grant_credits(
    p_csv text,
    p_reason text,
    p_key_prefix text,
    p_dry_run boolean DEFAULT false
) RETURNS TABLE (
    line bigint, account text, outcome text, credit_id uuid, amount_minor bigint, balance bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_row record;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_filled(p_key_prefix, 'p_key_prefix');
    PERFORM billing_data.require(
        length(p_key_prefix) <= 200, 'p_key_prefix', 'it must have at most 200 characters'
    );
    PERFORM billing_data.require(p_dry_run IS NOT NULL, 'p_dry_run', 'it must be true or false');
    PERFORM billing_data.require_csv(p_csv);
    PERFORM billing_data.require_durable_commit();
    PERFORM billing_data.lock_accounts(
        ARRAY(
            SELECT DISTINCT g.account_id
            FROM billing_data.read_grants(p_csv, p_key_prefix) AS g
            WHERE g.account_id IS NOT NULL
        ),
        p_wait => true
    );
    FOR v_row IN
        SELECT g.line, g.named, g.asked_id, g.account_id, g.amount, g.key, g.expires_at
        FROM billing_data.read_grants(p_csv, p_key_prefix) AS g
    LOOP
        line := v_row.line;
        account := v_row.named;
        credit_id := NULL;
        amount_minor := NULL;
        balance := NULL;
        IF v_row.named IS NULL OR v_row.amount IS NULL
            OR v_row.amount NOT BETWEEN 1 AND billing_data.max_amount()
            OR length(v_row.key) > billing_data.most('idempotency_key')
        THEN
            outcome := 'invalid';
        ELSIF v_row.account_id IS NULL THEN
            outcome := 'account_not_found';
        ELSE
            BEGIN
                SELECT
                    a.credit_id, a.amount_minor, a.balance_after,
                    CASE
                        WHEN a.replayed THEN 'replayed'
                        WHEN p_dry_run THEN 'would_grant'
                        ELSE 'granted'
                    END
                INTO STRICT credit_id, amount_minor, balance, outcome
                FROM billing_data.adjust_account(
                    v_row.account_id, v_row.asked_id, v_row.amount::bigint, p_reason, v_row.key,
                    p_dry_run, v_actor,
                    billing_data.csv_moment(v_row.expires_at, 'expires_at')
                ) AS a;
            EXCEPTION
                WHEN datetime_field_overflow THEN
                    outcome := 'invalid_argument';  -- a day that does not exist
                WHEN SQLSTATE 'PB422' THEN  -- the key of another grant, or too great a balance
                    GET STACKED DIAGNOSTICS outcome = CONSTRAINT_NAME;
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing.grant_credits IS
    'Gives credits to many accounts by a list in CSV, an outcome per line. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.grant_credits TO billing_dba;
