-- The payment providers that exist. The table billing_data.payment_providers has a row for each:
-- its name, whether it is offered, and what its settings are. Its code is in the folder
-- server/payments/<kind>/.

-- Refuses a payment provider that does not exist. p_argument is the name of the argument.
CREATE OR REPLACE FUNCTION billing_data.require_payment_provider(
    p_provider text, p_argument text DEFAULT 'p_provider'
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing_data.payment_providers AS p
        WHERE p.kind = p_provider
    ) THEN
        RETURN;
    END IF;
    PERFORM billing_data.require(
        false, p_argument,
        (
            SELECT
                'it must be ' || string_agg(
                    CASE
                        WHEN n.at = 1 THEN ''
                        WHEN n.at = n.number THEN ' or '
                        ELSE ', '
                    END || n.kind, '' ORDER BY n.at
                )
            FROM (
                SELECT
                    p.kind, row_number() OVER (ORDER BY p.place) AS at, count(*) OVER () AS number
                FROM billing_data.payment_providers AS p
            ) AS n
        )
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_payment_provider IS
    'Raises invalid_argument unless a payment provider exists. Helper.';

-- The name of a provider for people.
CREATE OR REPLACE FUNCTION billing_data.provider_name(p_kind text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT p.name
    FROM billing_data.payment_providers AS p
    WHERE p.kind = p_kind
);
COMMENT ON FUNCTION billing_data.provider_name IS
    'The name of a payment provider for people. Helper.';

-- Whether p_name is the name of a provider, under which the provider's own entries are recorded.
CREATE OR REPLACE FUNCTION billing_data.is_name_of_provider(p_name text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM billing_data.payment_providers AS p
        WHERE p.kind = p_name
    );
END
$$;
COMMENT ON FUNCTION billing_data.is_name_of_provider IS
    'Tells whether a name is that of a payment provider. Helper.';

-- The provider that is used where none is named: the first one. With p_to_sell it is the first that
-- is offered, active and has its credential, if there is one.
-- Example: SELECT billing.default_payment_provider();
CREATE OR REPLACE FUNCTION billing.default_payment_provider(p_to_sell boolean DEFAULT false)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT p.kind
    FROM billing_data.payment_providers AS p
    LEFT JOIN billing_data.provider_configs AS c
        ON p_to_sell AND c.provider_type = p.kind
    ORDER BY
        (p.is_offered AND c.is_active AND coalesce(c.config_data ->> p.credential, '') <> '')
        IS TRUE DESC,
        p.place
    LIMIT 1;
END;
COMMENT ON FUNCTION billing.default_payment_provider IS
    'The payment provider that is meant where none is named. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.default_payment_provider TO billing_server, billing_dba;
