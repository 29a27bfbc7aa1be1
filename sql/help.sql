-- Breaks a text into lines of at most p_width characters, at spaces.
CREATE OR REPLACE FUNCTION billing_data.wrapped(p_text text, p_width integer) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(m.line[1], chr(10))
    FROM regexp_matches(
        translate(p_text, chr(10), ' '),
        format('(?:[^ ](?:.{0,%s}[^ ])?|[^ ]+)(?= |$)', p_width - 2), 'g'
    ) AS m (line);
$$;
COMMENT ON FUNCTION billing_data.wrapped IS 'Breaks a text into lines. Helper.';

-- The functions and views of schema billing that this login may use, by task; those whose name,
-- comment, task or words have each word of p_search.
CREATE OR REPLACE FUNCTION billing_data.help_list(p_search text, p_width integer)
RETURNS TABLE (section text, name text, description text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH known (name, description) AS (
        SELECT p.proname::text, obj_description(p.oid, 'pg_proc')
        FROM pg_proc AS p
        WHERE p.pronamespace = 'billing'::regnamespace
            AND has_function_privilege(session_user, p.oid, 'EXECUTE')
        UNION ALL
        SELECT c.relname::text, obj_description(c.oid, 'pg_class')
        FROM pg_class AS c
        WHERE c.relnamespace = 'billing'::regnamespace
            AND c.relkind = 'v'
            AND has_table_privilege(session_user, c.oid, 'SELECT')
    )
    SELECT
        coalesce(t.task, 'other'), 'billing.' || k.name,
        billing_data.wrapped(regexp_replace(k.description, ' For [^.]*[.]$', ''), p_width)
    FROM known AS k
    LEFT JOIN billing_data.topics() AS t ON t.name = k.name
    CROSS JOIN (
        SELECT string_agg(pp.kind, ' ') AS kinds FROM billing_data.payment_providers AS pp
    ) AS r
    WHERE NOT EXISTS (
        SELECT
        FROM regexp_split_to_table(lower(btrim(p_search)), ' +') AS w (word)
        WHERE position(
            w.word IN lower(concat_ws(
                ' ', 'billing.' || k.name, k.description, t.task, t.words,
                CASE WHEN t.words LIKE '%payment%' THEN r.kinds END
            ))
        ) = 0
    )
    ORDER BY t.place, k.name;
$$;
COMMENT ON FUNCTION billing_data.help_list IS
    'What this login may use, by task, found by words. Helper.';

-- All about one function or view: what it does, its arguments, what it returns, what it refuses,
-- and an example. There is no row for a name that does not exist.
CREATE OR REPLACE FUNCTION billing_data.help_details(p_name text, p_width integer)
RETURNS TABLE (section text, name text, description text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
    WITH function AS (
        SELECT
            p.oid, p.proname::text AS name, obj_description(p.oid, 'pg_proc') AS comment,
            p.proargnames, p.proargmodes, p.pronargs, p.prorettype,
            coalesce(p.proallargtypes, p.proargtypes::oid[]) AS types,
            m.about, m.effects, m.example
        FROM pg_proc AS p
        LEFT JOIN billing_data.manual() AS m ON m.name = p.proname
        WHERE p.pronamespace = 'billing'::regnamespace AND p.proname = p_name
    ),
    columns AS (
        SELECT u.name, format_type(u.type, NULL) AS type, u.place,
            u.place <= f.pronargs AS is_argument, f.name AS function_name,
            pg_get_function_arg_default(f.oid, u.place::integer) AS default_value
        FROM function AS f
        CROSS JOIN LATERAL unnest(f.proargnames, f.types) WITH ORDINALITY
            AS u (name, type, place)
    ),
    parts (place, section, name, description) AS (
        SELECT 1, 'what', 'billing.' || f.name, f.comment FROM function AS f
        UNION ALL
        SELECT 2, 'may use', 'you',
            CASE
                WHEN NOT has_function_privilege(session_user, f.oid, 'EXECUTE')
                    THEN format('no: %s may not execute it', session_user)
            END
        FROM function AS f
        UNION ALL
        SELECT 3, 'about', '', f.about FROM function AS f
        UNION ALL
        SELECT 4 + c.place / 1000.0, 'argument', c.name,
            c.type
            || coalesce(', default ' || regexp_replace(c.default_value, '::[a-z ]+$', ''), '')
            || coalesce(': ' || (
                SELECT a.meaning
                FROM billing_data.argument_meanings() AS a
                WHERE coalesce(a.function_name, c.function_name) = c.function_name
                    AND coalesce(a.argument, c.name) = c.name
                ORDER BY a.argument, a.function_name NULLS LAST
                LIMIT 1
            ), '')
        FROM columns AS c
        WHERE c.is_argument
        UNION ALL
        SELECT 5 + c.place / 1000.0, 'returns', c.name, c.type
        FROM columns AS c
        WHERE NOT c.is_argument
        UNION ALL
        SELECT 5, 'returns', '', pg_get_function_result(f.oid)
        FROM function AS f
        WHERE f.prorettype <> 'record'::regtype
        UNION ALL
        SELECT 6, 'effects', '', f.effects FROM function AS f
        UNION ALL
        SELECT 7, 'refuses', e.slug, format('%s: %s', e.sqlstate, e.message)
        FROM billing.errors AS e, function AS f
        WHERE f.effects ~ ('[[:<:]]' || e.slug || '[[:>:]]')
        UNION ALL
        SELECT 1, 'what', 'billing.' || c.relname, obj_description(c.oid, 'pg_class')
        FROM pg_class AS c
        WHERE c.relnamespace = 'billing'::regnamespace AND c.relkind = 'v' AND c.relname = p_name
        UNION ALL
        SELECT 5 + a.attnum / 1000.0, 'column', a.attname, format_type(a.atttypid, a.atttypmod)
        FROM pg_attribute AS a
        INNER JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'billing'::regnamespace AND c.relkind = 'v' AND c.relname = p_name
            AND a.attnum > 0 AND NOT a.attisdropped
    )
    SELECT b.section, b.name, b.description
    FROM (
        SELECT p.place, p.section, p.name, billing_data.wrapped(p.description, p_width)
        FROM parts AS p
        WHERE p.description <> ''
        UNION ALL
        SELECT 8, 'example', '', f.example FROM function AS f WHERE f.example IS NOT NULL
    ) AS b (place, section, name, description)
    ORDER BY b.place, b.name;
$$;
COMMENT ON FUNCTION billing_data.help_details IS 'All about one function or view. Helper.';

-- Lists what this login can use, by task; with words, what these words find ('refund', 'why
-- denied'); with the name of a function or view, all about it: arguments, refusals, an example. The
-- list is made from the catalogue, the tasks and words from sql/topics.sql, the rest from the
-- comments in sql/. Lines fit in a window of 100 columns.
-- Example: SELECT * FROM billing.help('refund');
CREATE OR REPLACE FUNCTION billing.help(p_search text DEFAULT '')
RETURNS TABLE (section text, name text, description text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT d.section, d.name, d.description
    FROM billing_data.help_details(
        regexp_replace(lower(btrim(p_search)), '^billing[.]|[(].*$', '', 'g'), 52
    ) AS d;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT l.section, l.name, l.description
        FROM billing_data.help_list(coalesce(p_search, ''), 52) AS l;
    END IF;
END
$$;
COMMENT ON FUNCTION billing.help IS
    'Lists functions and views by task; finds them by words; tells all about one by its name. '
    'For everybody with a billing role.';
GRANT EXECUTE ON FUNCTION billing.help TO billing_server, billing_dba, billing_analyst;
