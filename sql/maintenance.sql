-- The regular work of keeping the database in order, as one call.

-- The steps of maintenance, in their order: a step that takes a lock for which others wait comes
-- last, since a lock is held to the end of the call. (A procedure could commit after each step, but
-- it would run with the rights of its caller, and could not return a row for each.)
CREATE OR REPLACE FUNCTION billing_data.maintenance_steps() RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY[
    'figures', 'holds', 'seals', 'watch', 'books', 'erased people', 'caps', 'refused charges',
    'deliveries', 'partitions', 'checks'
];
COMMENT ON FUNCTION billing_data.maintenance_steps IS 'The steps of maintenance. Helper.';

-- Goes on with the proof of all books, for at most p_time. It begins a new proof when the newest
-- one is finished or a day old. Returns whether nothing wrong was found, and how far it came.
CREATE OR REPLACE FUNCTION billing_data.prove_books(
    p_time interval, OUT is_well boolean, OUT detail text
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_end timestamptz := clock_timestamp() + p_time;
    v_proof record;
BEGIN
    PERFORM billing.begin_verification();
    LOOP
        PERFORM billing.continue_verification();
        EXIT WHEN NOT FOUND OR clock_timestamp() >= v_end;
    END LOOP;
    SELECT
        p.ranges, p.ranges_done, p.accounts_verified, p.entries_verified, p.problems,
        p.first_problem, p.first_account_id
    INTO STRICT v_proof
    FROM billing.get_proof() AS p;
    is_well := v_proof.problems = 0;
    detail := format(
        '%s of %s ranges: %s accounts with %s entries, %s problems', v_proof.ranges_done,
        v_proof.ranges, v_proof.accounts_verified, v_proof.entries_verified, v_proof.problems
    ) || coalesce('; ' || v_proof.first_problem || ' ' || v_proof.first_account_id, '');
END
$$;
COMMENT ON FUNCTION billing_data.prove_books IS 'Proves all books, as far as time allows. Helper.';

-- Does one step. Returns whether all is well and what was done.
CREATE OR REPLACE FUNCTION billing_data.run_maintenance_step(
    p_step text, p_before timestamptz, OUT is_well boolean, OUT detail text
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_books record;
    v_seal record;
    v_sealed bigint := 0;
BEGIN
    is_well := true;
    IF p_step = 'figures' THEN
        detail := CASE
            WHEN billing.refresh_figures() THEN 'rolled up' ELSE 'nothing to roll up'
        END;
    ELSIF p_step = 'holds' THEN
        detail := billing.tidy_holds(p_accounts => 10000)
            || ' accounts have holds, credits or grants that were due and are booked';
    ELSIF p_step = 'seals' THEN
        FOR v_call IN 1 .. 100 LOOP
            SELECT s.entries, s.head INTO v_seal
            FROM billing.seal_entries(p_entries => 10000) AS s;
            EXIT WHEN NOT FOUND;
            v_sealed := v_sealed + CASE WHEN v_seal.head IS NULL THEN v_seal.entries ELSE 0 END;
        END LOOP;
        detail := v_sealed || ' entries sealed';
    ELSIF p_step = 'watch' THEN
        SELECT w.accounts_checked, w.mismatched, w.payment_problems, w.guard_faults
        INTO STRICT v_books
        FROM billing.watch_books() AS w;
        is_well := cardinality(v_books.mismatched) = 0 AND v_books.guard_faults = 0;
        detail := format(
            '%s accounts with new entries: %s do not agree; %s guards are missing;'
            ' %s payment problems are open',
            v_books.accounts_checked, cardinality(v_books.mismatched), v_books.guard_faults,
            v_books.payment_problems
        );
    ELSIF p_step = 'books' THEN
        SELECT p.is_well, p.detail INTO STRICT is_well, detail
        FROM billing_data.prove_books(interval '10 minutes') AS p;
    ELSIF p_step = 'erased people' THEN
        detail := billing_data.erase_left_behind() || ' rows were left behind and are erased';
    ELSIF p_step = 'caps' THEN
        detail := billing_data.prune_cap_usage(billing_data.clock() - interval '1 day')
            || ' windows of caps are over and deleted';
    ELSIF p_step = 'partitions' THEN
        SELECT coalesce('made ' || string_agg(p.partition_name, ', '), 'all months are there')
        INTO STRICT detail
        FROM billing.create_check_partitions(p_months => 3) AS p;
    ELSIF p_before IS NULL THEN
        detail := 'everything is kept';
    ELSIF p_step = 'refused charges' THEN
        detail := billing.delete_refused_charges(p_before => p_before) || ' deleted';
    ELSIF p_step = 'deliveries' THEN
        detail := billing.delete_deliveries(p_before => p_before) || ' deleted';
    ELSIF p_step = 'checks' THEN
        SELECT coalesce('dropped from ' || string_agg(p.partition_name, ', '), 'nothing to drop')
        INTO STRICT detail
        FROM billing.drop_check_partitions(p_before => p_before) AS p;
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.run_maintenance_step IS 'Does one step of maintenance. Helper.';

-- Keeps the database in order; for cron or pg_cron, once a day. The steps: "figures" rolls up the
-- dashboard's figures; "seals" seals up to a million entries of days that are over; "watch"
-- compares the newest entries with their accounts and looks for guards that are missing; "books"
-- proves all books, for ten minutes at most (called again within a day, it goes on); "erased
-- people" erases what calls under way left behind of people who were erased in the last week;
-- "caps" deletes the usage of caps' windows that ended a day ago; "refused charges" and
-- "deliveries" delete what is older than p_keep; "partitions" makes the coming months of the check
-- audit; "checks" drops months that ended longer than p_keep ago, and up to 500,000 older checks
-- beside them. p_keep NULL keeps everything; p_steps does some steps only. The answer has a row for
-- each step: done, or failed and why. A step that fails is undone, and the server's log has a
-- WARNING of it; the other steps take effect. While another call is at work, this one does nothing
-- and says so.
-- Locks: billing_data.locks (maintenance); seal_state; verification_runs; the check audit, as
-- billing.create_check_partitions and billing.drop_check_partitions. Writes: what the steps do;
-- admin_audit_logs 1. Errors: actor_required, invalid_argument.
-- Example: SELECT * FROM billing.maintenance();
CREATE OR REPLACE FUNCTION billing.maintenance(
    p_keep interval DEFAULT '13 months', p_steps text[] DEFAULT NULL
)
RETURNS TABLE (step text, outcome text, took interval, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the times in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_steps text[] := billing_data.maintenance_steps();
    v_began timestamptz;
    v_is_well boolean;
    v_told jsonb := jsonb_build_array();
BEGIN
    PERFORM billing_data.require_list(array_dims(p_steps), cardinality(p_steps), 'p_steps');
    PERFORM billing_data.require(
        (p_steps <@ v_steps) IS NOT FALSE, 'p_steps',
        'it must be of ' || array_to_string(v_steps, ', ')
    );
    PERFORM billing_data.require(
        p_keep IS NULL OR now() - p_keep <= now() - interval '1 month', 'p_keep',
        'it must be a month at least'
    );
    PERFORM FROM billing_data.locks AS l WHERE l.name = 'maintenance' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        outcome := 'busy';
        detail := 'another call is at work';
        RETURN NEXT;
        RETURN;
    END IF;
    FOREACH step IN ARRAY v_steps LOOP
        CONTINUE WHEN NOT step = ANY (coalesce(p_steps, v_steps));
        v_began := clock_timestamp();
        BEGIN
            SELECT r.is_well, r.detail INTO STRICT v_is_well, detail
            FROM billing_data.run_maintenance_step(step, now() - p_keep) AS r;
        EXCEPTION
            WHEN OTHERS THEN  -- whatever it is, it must not undo the other steps
                v_is_well := false;
                detail := format('%s (SQLSTATE %s)', sqlerrm, sqlstate);
        END;
        outcome := CASE WHEN v_is_well THEN 'done' ELSE 'failed' END;
        IF NOT v_is_well THEN
            RAISE WARNING 'maintenance: % failed: %', step, detail;
        END IF;
        took := clock_timestamp() - v_began;
        v_told := v_told || jsonb_build_object(
            'step', step, 'outcome', outcome, 'detail', detail,
            'began_at', v_began, 'ended_at', clock_timestamp()
        );
        RETURN NEXT;
    END LOOP;
    PERFORM billing_data.write_audit('maintenance.run', 'database', NULL, v_told, NULL, v_actor);
END
$$;
COMMENT ON FUNCTION billing.maintenance IS
    'Keeps the database in order: figures, seals, proof, partitions, retention; a row per step. '
    'For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.maintenance TO billing_dba;
