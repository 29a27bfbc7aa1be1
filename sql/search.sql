-- Searching for what staff type: words, parts of words and ids.

-- Whether a text is a UUID in its usual form.
CREATE OR REPLACE FUNCTION billing_data.is_uuid(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(p_text ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', false);
COMMENT ON FUNCTION billing_data.is_uuid IS 'Tells whether a text is a UUID. Helper.';

-- The LIKE patterns that find texts which contain p_search, or, with p_match 'prefix', begin with
-- it, in any case and in either of Unicode's two normal forms: é may be stored as one character or
-- two.
CREATE OR REPLACE FUNCTION billing_data.search_patterns(p_search text, p_match text)
RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(
        DISTINCT
        CASE p_match WHEN 'substring' THEN '%' ELSE '' END
        || replace(
            replace(replace(lower(f.form), E'\\', E'\\\\'), '%', E'\\%'), '_', E'\\_'
        ) || '%'
    )
    FROM (
        SELECT p_search AS form
        UNION ALL
        -- Only a database in UTF-8 has normal forms.
        SELECT normalize(p_search, NFC) WHERE getdatabaseencoding() = 'UTF8'
        UNION ALL
        SELECT normalize(p_search, NFD) WHERE getdatabaseencoding() = 'UTF8'
    ) AS f;
$$;
COMMENT ON FUNCTION billing_data.search_patterns IS
    'The LIKE patterns that find a text in either normal form. Helper.';
