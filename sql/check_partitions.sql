-- The monthly partitions of the check audit. A check whose month has no partition goes to the
-- default partition, so no check is ever refused. When the month's partition is made later, its
-- checks are moved there.

-- All partitions of the check audit but the default one, with the times they hold, whoever made
-- them.
CREATE OR REPLACE FUNCTION billing_data.list_check_partitions()
RETURNS TABLE (schema_name text, partition_name text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO, YMD'
AS $$
    SELECT
        n.nspname::text, c.relname::text,
        coalesce(substring(b.bound FROM 'FROM [(]''([^'']+)''')::timestamptz, '-infinity'),
        coalesce(substring(b.bound FROM 'TO [(]''([^'']+)''')::timestamptz, 'infinity')
    FROM pg_inherits AS i
    INNER JOIN pg_class AS c ON c.oid = i.inhrelid
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) AS b
    WHERE i.inhparent = 'billing_data.credit_checks'::regclass AND b.bound <> 'DEFAULT'
    ORDER BY 3;
$$;
COMMENT ON FUNCTION billing_data.list_check_partitions IS
    'Lists the partitions of the check audit and the times they hold. Helper.';

-- A time as a partition's bound is written, whatever the caller's DateStyle and TimeZone are.
CREATE OR REPLACE FUNCTION billing_data.utc_text(p_at timestamptz) RETURNS text
LANGUAGE sql STABLE
RETURN to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00';
COMMENT ON FUNCTION billing_data.utc_text IS 'A moment in ISO form, in UTC. Helper.';

-- Locks tables that others read and write all the time, all of them or none. Each attempt lasts a
-- tenth of a second, so that nobody queues behind it for longer. p_locks are the ends of LOCK
-- statements.
-- Errors: lock_not_available (55P03) when another session holds one for seconds.
CREATE OR REPLACE FUNCTION billing_data.lock_between_writers(p_locks text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_lock_timeout text := current_setting('lock_timeout');
    v_lock text;
BEGIN
    FOR v_try IN 1 .. 10 LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '100ms', true);
            FOREACH v_lock IN ARRAY p_locks LOOP
                EXECUTE 'LOCK TABLE ONLY billing_data.' || v_lock;
            END LOOP;
            PERFORM set_config('lock_timeout', v_lock_timeout, true);
            RETURN;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                IF v_try = 10 THEN
                    RAISE;
                END IF;
                PERFORM pg_sleep(0.1);  -- for the sessions that waited behind this attempt
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.lock_between_writers IS
    'Locks busy tables without holding up their users for long. Helper.';

-- Moves the checks between p_from and p_to from the default partition into another table.
CREATE OR REPLACE FUNCTION billing_data.move_default_checks(
    p_table text, p_from timestamptz, p_to timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format(
        'WITH moved AS (
            DELETE FROM billing_data.credit_checks_default AS d
            WHERE d.created_at >= $1 AND d.created_at < $2 RETURNING d.*
        )
        INSERT INTO billing_data.%I SELECT m.* FROM moved AS m', p_table
    ) USING p_from, p_to;
END
$$;
COMMENT ON FUNCTION billing_data.move_default_checks IS
    'Moves checks of a span from the default partition into a table. Helper.';

-- Makes the monthly partitions of the check audit from this month (UTC) to p_months ahead, and
-- moves the checks of these months there from the default partition. It leaves a month as it is
-- when a partition holds all or part of it already, under whatever name. It also leaves a month of
-- which the default partition holds more than p_most_rows checks (NULL: no limit), for callers
-- whose statements must be short.
-- Checks go on being written meanwhile. The old rows are moved without a lock on the default
-- partition, in this transaction, so that every reader sees each row once. The default partition is
-- locked only while the rows written since then are moved and while PostgreSQL scans what stays in
-- it (a tenth of a second per million rows). For a month that has begun, everyone is kept out of
-- the whole table for that moment: a writer that had already chosen the default partition would be
-- refused by it afterwards, and a reader that knew the partitions of before would miss the rows.
-- Locks: the table, SHARE UPDATE EXCLUSIVE (one caller at a time); for new months only, the table,
-- ACCESS EXCLUSIVE, and the default partition. Errors: invalid_argument; lock_not_available
-- (55P03), and then nothing was changed.
-- Example: SELECT * FROM billing.create_check_partitions(p_months => 3);
CREATE OR REPLACE FUNCTION billing.create_check_partitions(
    p_months integer DEFAULT 3, p_most_rows bigint DEFAULT NULL
)
RETURNS TABLE (partition_name text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_start timestamptz;
    v_end timestamptz;
    v_name text;
    v_found bigint;
BEGIN
    PERFORM billing_data.require(p_months BETWEEN 0 AND 120, 'p_months', 'it must be 0 to 120');
    LOCK TABLE ONLY billing_data.credit_checks IN SHARE UPDATE EXCLUSIVE MODE;
    FOR v_month IN 0 .. p_months LOOP
        v_start := (
            date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => v_month)
        ) AT TIME ZONE 'UTC';
        v_end := (
            date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => v_month + 1)
        ) AT TIME ZONE 'UTC';
        CONTINUE WHEN EXISTS (
            SELECT FROM billing_data.list_check_partitions() AS l
            WHERE l.starts_at < v_end AND l.ends_at > v_start
        );
        IF p_most_rows IS NOT NULL THEN
            SELECT count(*) INTO STRICT v_found
            FROM (
                SELECT FROM billing_data.credit_checks_default AS d
                WHERE d.created_at >= v_start AND d.created_at < v_end
                LIMIT p_most_rows + 1
            ) AS f;
            CONTINUE WHEN v_found > p_most_rows;
        END IF;
        v_name := 'credit_checks_' || to_char(v_start AT TIME ZONE 'UTC', 'YYYY_MM');
        -- A table of that name that is not a partition was made by somebody else.
        WHILE to_regclass('billing_data.' || quote_ident(v_name)) IS NOT NULL LOOP
            v_name := v_name || '_new';
        END LOOP;
        EXECUTE format(
            'CREATE TABLE billing_data.%I (
                LIKE billing_data.credit_checks
                    INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES,
                CONSTRAINT bounds CHECK (created_at >= %L AND created_at < %L)
            )',
            v_name, billing_data.utc_text(v_start), billing_data.utc_text(v_end)
        );
        PERFORM billing_data.move_default_checks(v_name, v_start, v_end);
        PERFORM billing_data.lock_between_writers(
            CASE
                WHEN v_start < now() + interval '1 day'
                    THEN ARRAY['credit_checks IN ACCESS EXCLUSIVE MODE']
                ELSE '{}'
            END
            || ARRAY['credit_checks_default IN ACCESS EXCLUSIVE MODE']
        );
        PERFORM billing_data.move_default_checks(v_name, v_start, v_end);
        EXECUTE format(
            'ALTER TABLE billing_data.credit_checks ATTACH PARTITION billing_data.%I
                FOR VALUES FROM (%L) TO (%L)',
            v_name, billing_data.utc_text(v_start), billing_data.utc_text(v_end)
        );
        -- The constraint also told PostgreSQL that it need not scan the new partition.
        EXECUTE format('ALTER TABLE billing_data.%I DROP CONSTRAINT bounds', v_name);
        partition_name := v_name;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing.create_check_partitions IS
    'Makes the check audit''s coming monthly partitions. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_check_partitions TO billing_server, billing_dba;

-- Refuses to delete rows that are younger than a month, or too many rows at once.
CREATE OR REPLACE FUNCTION billing_data.require_retention(p_before timestamptz, p_rows bigint)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        p_before <= now() - interval '1 month', 'p_before', 'it must lie at least a month back'
    );
    PERFORM billing_data.require_moment(p_before, 'p_before');
    PERFORM billing_data.require(
        p_rows BETWEEN 1 AND 5000000, 'p_rows', 'it must be 1 to 5000000'
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_retention IS
    'Raises invalid_argument unless a deletion of old rows is a careful one. Helper.';

-- Retention: deletes up to p_rows checks before p_before from the default partition, and drops the
-- partitions that end before it. Returns the names of those it dropped. It also returns
-- credit_checks_default when it deleted rows there; then it must be called again. Checks go on
-- being written meanwhile.
-- Locks: the table, SHARE UPDATE EXCLUSIVE, and exclusively for the moment of dropping. Writes:
-- admin_audit_logs 1 when it deleted. Errors: actor_required, invalid_argument; lock_not_available
-- (55P03), and then nothing was changed.
-- Example: SELECT * FROM billing.drop_check_partitions(p_before => now() - interval '13 months');
CREATE OR REPLACE FUNCTION billing.drop_check_partitions(
    p_before timestamptz, p_rows bigint DEFAULT 500000
)
RETURNS TABLE (partition_name text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the time in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_names text[];
    v_deleted bigint;
BEGIN
    PERFORM billing_data.require_retention(p_before, p_rows);
    LOCK TABLE ONLY billing_data.credit_checks IN SHARE UPDATE EXCLUSIVE MODE;
    DELETE FROM billing_data.credit_checks_default AS d
    WHERE d.ctid = ANY (ARRAY(
        SELECT n.ctid FROM billing_data.credit_checks_default AS n
        WHERE n.created_at < p_before
        LIMIT p_rows
    ));
    GET DIAGNOSTICS v_deleted = ROW_COUNT;
    IF v_deleted > 0 THEN
        partition_name := 'credit_checks_default';
        RETURN NEXT;
    END IF;
    v_names := ARRAY(
        SELECT l.partition_name
        FROM billing_data.list_check_partitions() AS l
        WHERE l.schema_name = 'billing_data' AND l.ends_at <= p_before
        ORDER BY l.ends_at
    );
    IF cardinality(v_names) > 0 THEN
        PERFORM billing_data.lock_between_writers(
            ARRAY['credit_checks IN ACCESS EXCLUSIVE MODE']
        );
    END IF;
    FOREACH partition_name IN ARRAY v_names LOOP
        EXECUTE format('DROP TABLE billing_data.%I', partition_name);
        RETURN NEXT;
    END LOOP;
    IF v_deleted > 0 OR cardinality(v_names) > 0 THEN
        PERFORM billing_data.write_audit(
            'checks.drop', 'credit_checks', NULL,
            jsonb_build_object(
                'before', p_before, 'partitions', v_names, 'deleted_beside_them', v_deleted
            ),
            NULL, v_actor
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing.drop_check_partitions IS
    'Drops check audit partitions that end before a time, and older checks beside them. '
    'For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.drop_check_partitions TO billing_dba;
