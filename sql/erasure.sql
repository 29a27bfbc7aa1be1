-- Erasing a person: everything that names them gets its erased form or is deleted. Amounts, dates
-- and what proves the books stay. billing.erase_personal_data is at the end; before it stands what
-- becomes of each kind of row.

-- What stays of a JSON value: numbers, true and false, ids, and words of closed sets of ours.
CREATE OR REPLACE FUNCTION billing_data.erased_json(p_value jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE jsonb_typeof(p_value)
        WHEN 'object' THEN (
            SELECT coalesce(jsonb_object_agg(j.key, billing_data.erased_json(j.value)), '{}')
            FROM jsonb_each(p_value) AS j
        )
        WHEN 'array' THEN (
            SELECT coalesce(jsonb_agg(billing_data.erased_json(j.value) ORDER BY j.place), '[]')
            FROM jsonb_array_elements(p_value) WITH ORDINALITY AS j (value, place)
        )
        WHEN 'string' THEN CASE
            WHEN billing_data.is_uuid(p_value #>> '{}')
                OR p_value #>> '{}' IN (
                    'active', 'suspended', 'closed', 'purchase', 'grant', 'refund', 'adjustment',
                    'credited', 'refunded', 'other'
                ) THEN p_value
            ELSE '"erased"'
        END
        ELSE p_value
    END;
END
$$;
COMMENT ON FUNCTION billing_data.erased_json IS
    'What stays of a JSON value when a person is erased. Helper.';

-- The erased form of an audit row. It still says who did what to which thing, and when.
CREATE OR REPLACE FUNCTION billing_data.erased_audit_log(p_row billing_data.admin_audit_logs)
RETURNS billing_data.admin_audit_logs
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT billing_data.is_uuid(p_row.resource_id) AND p_row.resource_type NOT LIKE 'payment%' THEN
        p_row.resource_id := 'erased';
    END IF;
    IF p_row.reason IS NOT NULL THEN
        p_row.reason := 'erased';
    END IF;
    p_row.changes := billing_data.erased_json(p_row.changes);
    RETURN p_row;
END
$$;
COMMENT ON FUNCTION billing_data.erased_audit_log IS
    'What an audit row becomes when a person is erased. Helper.';

-- The erased form of a payment provider's event. It still says which payment it is about, and how
-- much.
CREATE OR REPLACE FUNCTION billing_data.erased_payload(p_payload jsonb, p_payment_id text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN jsonb_build_object('erased', true, 'data', jsonb_build_object(
    'object', jsonb_strip_nulls(jsonb_build_object(
        'id', CASE
            WHEN p_payload #>> '{data,object,id}' = p_payment_id THEN p_payment_id
        END,
        'amount', CASE jsonb_typeof(p_payload #> '{data,object,amount}')
            WHEN 'number' THEN p_payload #> '{data,object,amount}'
        END,
        'amount_received', CASE jsonb_typeof(p_payload #> '{data,object,amount_received}')
            WHEN 'number' THEN p_payload #> '{data,object,amount_received}'
        END,
        'currency', CASE
            WHEN length(p_payload #>> '{data,object,currency}') = 3
                THEN p_payload #> '{data,object,currency}'
        END
    ))
));
COMMENT ON FUNCTION billing_data.erased_payload IS
    'What stays of an event when a person is erased. Helper.';

-- Erases who bought, in the purchases of accounts, and returns how many purchases that were.
CREATE OR REPLACE FUNCTION billing_data.erase_purchases(p_account_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_erased bigint;
BEGIN
    UPDATE billing_data.purchases AS p
    SET customer_email = NULL, idempotency_key = NULL, request_fingerprint = NULL
    WHERE p.account_id = ANY (p_account_ids)
        AND num_nonnulls(p.customer_email, p.idempotency_key, p.request_fingerprint) > 0;
    GET DIAGNOSTICS v_erased = ROW_COUNT;
    RETURN v_erased;
END
$$;
COMMENT ON FUNCTION billing_data.erase_purchases IS
    'Erases who bought, in the purchases of accounts. Helper.';

-- Ends the top-ups of accounts, erases whose card they charged and what was agreed to, and returns
-- how many consents that were.
CREATE OR REPLACE FUNCTION billing_data.erase_top_ups(p_account_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_erased bigint;
BEGIN
    PERFORM billing_data.withdraw_top_ups(p_account_ids, 'erased');
    UPDATE billing_data.top_ups AS t
    SET customer_id = NULL, payment_method_id = NULL, card = NULL, consent_version = 'erased',
        consent_text = 'erased'
    WHERE t.account_id = ANY (p_account_ids)
        AND (t.consent_text <> 'erased' OR num_nonnulls(t.customer_id, t.card) > 0);
    GET DIAGNOSTICS v_erased = ROW_COUNT;
    RETURN v_erased;
END
$$;
COMMENT ON FUNCTION billing_data.erase_top_ups IS
    'Erases whose card top-ups of accounts charged. Helper.';

-- Erases what payment providers reported of a person, and their purchases. The caller holds the
-- events and the accounts.
CREATE OR REPLACE FUNCTION billing_data.erase_payments(p_account_ids uuid[])
RETURNS TABLE (table_name text, rows_erased bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    table_name := 'payment_events';
    UPDATE billing_data.payment_events AS e
    SET payload = billing_data.erased_payload(e.payload, e.payment_id),
        resolution = CASE WHEN e.resolution IS NOT NULL THEN 'erased' END
    FROM billing_data.events_of_person(p_account_ids) AS i
    WHERE e.provider = i.provider AND e.event_id = i.event_id
        AND (e.payload, e.resolution) IS DISTINCT FROM (
            billing_data.erased_payload(e.payload, e.payment_id),
            CASE WHEN e.resolution IS NOT NULL THEN 'erased' END
        );
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'purchases';
    rows_erased := billing_data.erase_purchases(p_account_ids);
    RETURN NEXT;
    table_name := 'top_ups';
    rows_erased := billing_data.erase_top_ups(p_account_ids);
    RETURN NEXT;
    table_name := 'payment_effects';
    UPDATE billing_data.payment_effects AS x
    SET resolution = CASE WHEN x.resolution IS NOT NULL THEN 'erased' END,
        purchase_before = x.purchase_before
        || '{"customer_email": null, "idempotency_key": null, "request_fingerprint": null}'
    WHERE (
            x.account_id = ANY (p_account_ids)
            OR EXISTS (
                SELECT FROM billing_data.purchases AS p
                WHERE p.account_id = ANY (p_account_ids)
                    AND p.provider = x.provider
                    AND p.payment_id = x.payment_id
            )
        )
        AND (
            x.resolution <> 'erased'
            OR x.purchase_before ->> 'customer_email' IS NOT NULL
            OR x.purchase_before ->> 'idempotency_key' IS NOT NULL
        );
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'payment_refunds';
    UPDATE billing_data.payment_refunds AS f
    SET reason = 'erased',
        failure = CASE WHEN f.failure IS NOT NULL THEN 'erased' END,
        idempotency_key = NULL
    WHERE f.account_id = ANY (p_account_ids)
        AND (f.reason <> 'erased' OR f.failure <> 'erased' OR f.idempotency_key IS NOT NULL);
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'payment_returns';
    UPDATE billing_data.payment_returns AS r
    SET resolution = 'erased'
    WHERE r.account_id = ANY (p_account_ids) AND r.resolution <> 'erased';
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'payment_warnings';
    UPDATE billing_data.payment_warnings AS w
    SET resolution = 'erased'
    WHERE w.account_id = ANY (p_account_ids) AND w.resolution <> 'erased';
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.erase_payments IS
    'Erases what is stored of a person''s payments but amounts and dates. Helper.';

-- Deletes the checks, refused charges, alerts and remembered requests of a person, the notes on
-- them, and what lists of charges say of them. The caller holds the accounts.
CREATE OR REPLACE FUNCTION billing_data.erase_requests(p_account_ids uuid[])
RETURNS TABLE (table_name text, rows_erased bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    table_name := 'credit_checks';
    DELETE FROM billing_data.credit_checks AS k
    WHERE k.account_id = ANY (p_account_ids)
        OR (
            k.account_id IS NULL
            AND (k.oauth_provider, k.external_id) IN (
                SELECT a.oauth_provider, a.external_id
                FROM billing_data.accounts AS a
                WHERE a.id = ANY (p_account_ids)
            )
        );
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'refused_charges';
    DELETE FROM billing_data.refused_charges AS r WHERE r.account_id = ANY (p_account_ids);
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'holds';
    UPDATE billing_data.holds AS h
    SET description = 'erased', idempotency_key = NULL, metadata_message_id = NULL,
        metadata_agent_id = NULL, metadata_channel_id = NULL, metadata_request_id = NULL,
        request_fingerprint = billing_data.fingerprint(0)
    WHERE h.account_id = ANY (p_account_ids)
        AND h.request_fingerprint <> billing_data.fingerprint(0);
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    UPDATE billing_data.hold_changes AS c
    SET reason = 'erased'
    FROM billing_data.holds AS h
    WHERE h.account_id = ANY (p_account_ids) AND c.hold_id = h.id AND c.reason <> 'erased';
    RETURN NEXT;
    table_name := 'outbox';
    DELETE FROM billing_data.outbox AS o WHERE o.account_id = ANY (p_account_ids);
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'account_notes';
    DELETE FROM billing_data.account_notes AS n WHERE n.account_id = ANY (p_account_ids);
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'grant_schedules';
    rows_erased := billing_data.erase_schedules(p_account_ids);
    RETURN NEXT;
    table_name := 'account_merges';
    UPDATE billing_data.account_merges AS m
    SET reason = 'erased', undo_reason = CASE WHEN m.undo_reason IS NOT NULL THEN 'erased' END,
        consent_before = NULL, idempotency_key = NULL, undo_key = NULL,
        request_fingerprint = billing_data.fingerprint(0)
    WHERE (m.account_id = ANY (p_account_ids) OR m.merged_account_id = ANY (p_account_ids))
        AND (
            m.reason <> 'erased'
            OR m.undo_reason <> 'erased'
            OR num_nonnulls(m.consent_before, m.idempotency_key, m.undo_key) > 0
        );
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'account_requests';
    DELETE FROM billing_data.account_requests AS r WHERE r.account_id = ANY (p_account_ids);
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
    table_name := 'batch_requests';
    UPDATE billing_data.batch_requests AS b
    SET answer = (
        SELECT jsonb_agg(
            CASE
                WHEN (o.outcome ->> 'account_id' = ANY (p_account_ids::text[])) IS TRUE
                    THEN o.outcome || '{
                        "description": "erased", "metadata_message_id": null,
                        "metadata_agent_id": null, "metadata_channel_id": null,
                        "metadata_request_id": null
                    }'
                ELSE o.outcome
            END
            ORDER BY o.place
        )
        FROM jsonb_array_elements(b.answer) WITH ORDINALITY AS o (outcome, place)
    )
    FROM (
        SELECT DISTINCT n.api_key_id, n.idempotency_key
        FROM billing_data.batches_of_person(p_account_ids) AS n
        WHERE n.outcome ->> 'description' <> 'erased'
            OR n.outcome ->> 'metadata_message_id' IS NOT NULL
            OR n.outcome ->> 'metadata_agent_id' IS NOT NULL
            OR n.outcome ->> 'metadata_channel_id' IS NOT NULL
            OR n.outcome ->> 'metadata_request_id' IS NOT NULL
    ) AS i
    WHERE b.api_key_id = i.api_key_id AND b.idempotency_key = i.idempotency_key;
    GET DIAGNOSTICS rows_erased = ROW_COUNT;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.erase_requests IS
    'Deletes checks, refusals, alerts, notes and remembered requests of a person. Helper.';

-- Erases the audit rows that are about a person. It must come before anything else that erases,
-- because the rows are found by what is stored of the person.
CREATE OR REPLACE FUNCTION billing_data.erase_audit_rows(p_account_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_erased bigint;
BEGIN
    INSERT INTO billing_data.erased_audit_logs (id, erased_at)
    SELECT l.id, clock_timestamp()
    FROM billing_data.audit_rows_of_person(p_account_ids) AS i
    INNER JOIN billing_data.admin_audit_logs AS l ON l.id = i.id
    WHERE l.action <> 'account.erase' AND l IS DISTINCT FROM billing_data.erased_audit_log(l)
    ON CONFLICT ON CONSTRAINT erased_audit_logs_pkey DO NOTHING;
    UPDATE billing_data.admin_audit_logs AS l
    SET resource_id = f.resource_id, reason = f.reason, changes = f.changes
    FROM billing_data.audit_rows_of_person(p_account_ids) AS i
    INNER JOIN billing_data.admin_audit_logs AS o ON o.id = i.id
    CROSS JOIN LATERAL billing_data.erased_audit_log(o) AS f
    WHERE l.id = o.id AND o.action <> 'account.erase' AND o IS DISTINCT FROM f;
    GET DIAGNOSTICS v_erased = ROW_COUNT;
    RETURN v_erased;
END
$$;
COMMENT ON FUNCTION billing_data.erase_audit_rows IS
    'Erases the audit rows that are about a person. Helper.';

-- Gives up the paid credits of accounts that are about to be erased: an entry of the ledger takes
-- each balance to 0. Returns how many credits that were. The caller holds the accounts.
CREATE OR REPLACE FUNCTION billing_data.give_up_credits(
    p_account_ids uuid[], p_actor billing_data.actor
) RETURNS numeric
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_given_up numeric := 0;
BEGIN
    PERFORM billing_data.give_back_held(p_account_ids, 'erased', p_actor);
    FOR v_account IN
        SELECT a.*
        FROM billing_data.accounts AS a
        WHERE a.id = ANY (p_account_ids)
            AND a.paid_credits > 0
            -- What was paid after the erasing is to be refunded.
            AND NOT billing_data.is_erased(a.id)
        ORDER BY a.id
    LOOP
        PERFORM billing_data.append_credit(
            v_account, -v_account.paid_credits, 'adjustment', 'erased', NULL, NULL,
            billing_data.fingerprint(billing_data.field_hash('erased', v_account.id::text)),
            clock_timestamp(), NULL, p_actor.admin_user_id, p_actor.database_role, NULL
        );
        v_given_up := v_given_up + v_account.paid_credits;
    END LOOP;
    RETURN v_given_up;
END
$$;
COMMENT ON FUNCTION billing_data.give_up_credits IS
    'Takes the balances of accounts that are erased to 0. Helper.';

-- What prevents that an account is erased without force; NULL when nothing does.
CREATE OR REPLACE FUNCTION billing_data.erasure_obstacle(p_account_ids uuid[]) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT nullif(concat_ws(
        ' and ',
        (
            SELECT billing_data.count_text(sum(a.paid_credits)::bigint, 'paid credit')
            FROM billing_data.accounts AS a
            WHERE a.id = ANY (p_account_ids) AND NOT billing_data.is_erased(a.id)
            HAVING sum(a.paid_credits) > 0
        ),
        (
            SELECT billing_data.count_text(count(*), 'open payment problem')
            FROM billing_data.find_payment_problems() AS q
            WHERE (
                    q.account_id = ANY (p_account_ids)
                    OR EXISTS (
                        SELECT FROM billing_data.purchases AS p
                        WHERE p.account_id = ANY (p_account_ids)
                            AND p.provider = q.provider
                            AND p.payment_id = q.payment_id
                    )
                )
                AND NOT billing_data.is_erased(p_account_ids[1])
            HAVING count(*) > 0
        )
    ), '')
$$;
COMMENT ON FUNCTION billing_data.erasure_obstacle IS
    'What prevents that an account is erased without force. Helper.';

-- Erases everything of a person's accounts, which the caller holds, and returns by table how many
-- rows were erased (credits_given_up: credits). Audit rows and events are found by the person's
-- names, so that they come first and the accounts last.
CREATE OR REPLACE FUNCTION billing_data.erase_person(
    p_account_ids uuid[], p_actor billing_data.actor
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_counts jsonb;
    v_entries bigint := 0;
    v_accounts bigint;
    v_id uuid;
BEGIN
    v_counts := jsonb_build_object(
        'credits_given_up', billing_data.give_up_credits(p_account_ids, p_actor),
        'admin_audit_logs', billing_data.erase_audit_rows(p_account_ids)
    );
    SELECT v_counts || coalesce(jsonb_object_agg(e.table_name, e.rows_erased), '{}')
    INTO STRICT v_counts
    FROM (
        SELECT p.table_name, p.rows_erased FROM billing_data.erase_payments(p_account_ids) AS p
        UNION ALL
        SELECT r.table_name, r.rows_erased FROM billing_data.erase_requests(p_account_ids) AS r
    ) AS e;
    FOREACH v_id IN ARRAY p_account_ids LOOP
        -- An adopted account that was merged has no row of its own any more.
        IF EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = v_id) THEN
            v_entries := v_entries + billing_data.erase_entries(v_id);
        END IF;
    END LOOP;
    -- Nobody can foresee the new identity, so nobody can have taken it before.
    UPDATE billing_data.accounts AS a
    SET oauth_provider = n.oauth_provider, external_id = n.external_id, wa_id = NULL,
        tenant_id = NULL, customer_email = NULL, user_role = NULL, agent_id = NULL,
        marketing_opt_in = false, marketing_opt_in_at = NULL, marketing_opt_in_source = NULL,
        plan_name = n.plan_name, status = n.status, updated_at = clock_timestamp()
    FROM (
        SELECT
            o.id, 'oauth:erased' AS oauth_provider, 'erased' AS plan_name,
            CASE
                WHEN billing_data.is_erased(o.id) THEN o.external_id
                ELSE gen_random_uuid()::text
            END AS external_id,
            CASE o.status WHEN 'merged' THEN o.status ELSE 'closed' END AS status
        FROM billing_data.accounts AS o
        WHERE o.id = ANY (p_account_ids)
    ) AS n
    WHERE a.id = n.id
        AND (
            (a.oauth_provider, a.external_id, a.plan_name, a.status)
                <> (n.oauth_provider, n.external_id, n.plan_name, n.status)
            OR a.marketing_opt_in
            OR num_nonnulls(a.wa_id, a.tenant_id, a.customer_email, a.user_role, a.agent_id) > 0
        );
    GET DIAGNOSTICS v_accounts = ROW_COUNT;
    INSERT INTO billing_data.erased_accounts (account_id, erased_at)
    SELECT a.id, clock_timestamp()
    FROM billing_data.accounts AS a
    WHERE a.id = ANY (p_account_ids)
    ON CONFLICT ON CONSTRAINT erased_accounts_pkey DO NOTHING;
    v_counts := v_counts
        || jsonb_build_object('charges_and_credits', v_entries, 'accounts', v_accounts);
    RETURN (
        SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}')
        FROM jsonb_each(v_counts) AS c
        WHERE c.value <> '0'
    );
END
$$;
COMMENT ON FUNCTION billing_data.erase_person IS
    'Erases everything of a person''s accounts. Helper.';

-- Erases the data of a person everywhere: of an account and of those that were merged into it. The
-- identity is replaced, the account is closed; checks, refused charges, alerts and remembered
-- requests are deleted; descriptions, notes, origins, what payment providers sent and what the
-- audit log says of the person get an erased form. Amounts, dates, the ledger, its seals and the
-- ids of payments stay, and the books go on agreeing. The identity may come again, as a new
-- account.
-- With paid credits left or open payment problems the account is refused (account_in_use), unless
-- p_force: then an entry gives the credits up, and the problems stay open, without the data.
-- A payment that arrives later is credited to the erased account and listed as a problem
-- (paid_after_erasure), so that a person refunds it.
-- A check or purchase that was under way may leave a row behind: billing.maintenance erases it, and
-- so does another call. A call for an account that was erased before erases what is new. With
-- p_dry_run true, everything is done and undone; the answer is what would be erased, and obstacle
-- what would be refused.
-- It reads payment events, the audit log and lists of charges as a whole. Copies of the database
-- (backups, exports) keep the data until they are deleted.
-- Locks: the events, the accounts in id order. Writes: all tables named in the answer,
-- admin_audit_logs 1. Errors: actor errors, invalid_argument, account_not_found, account_in_use,
-- lock_not_available when an account stays held, serialization_failure when accounts were merged at
-- this moment.
-- Example: SELECT * FROM billing.erase_personal_data(p_account_id => '...',
--     p_reason => 'asked by letter', p_dry_run => true);
CREATE OR REPLACE FUNCTION billing.erase_personal_data(
    p_account_id uuid,
    p_reason text,
    p_dry_run boolean DEFAULT false,
    p_force boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (table_name text, rows_erased bigint, obstacle text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_ids uuid[] := billing_data.accounts_of_person(p_account_id);
    v_counts jsonb;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        num_nulls(p_dry_run, p_force) = 0, 'p_dry_run', 'it must be true or false, as p_force'
    );
    PERFORM billing_data.require(
        NOT billing_data.names_one(p_reason, billing_data.names_of_person(v_ids)), 'p_reason',
        'it must not name the person, because it stays'
    );
    IF NOT EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = ANY (v_ids)) THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM billing_data.require_durable_commit();
    -- Events first, as everywhere: an event that is processed now waits for the account.
    PERFORM FROM billing_data.payment_events AS e
    WHERE (e.provider, e.event_id) IN (
        SELECT i.provider, i.event_id FROM billing_data.events_of_person(v_ids) AS i
    )
    ORDER BY e.provider, e.event_id
    FOR NO KEY UPDATE;
    PERFORM billing_data.lock_accounts(
        ARRAY(
            SELECT a.id FROM billing_data.accounts AS a WHERE a.id = ANY (v_ids) ORDER BY a.id
        ),
        p_wait => true
    );
    IF v_ids <> billing_data.accounts_of_person(p_account_id) THEN
        PERFORM billing_data.raise_merged_meanwhile();
    END IF;
    obstacle := billing_data.erasure_obstacle(v_ids);
    IF obstacle IS NOT NULL AND NOT p_force AND NOT p_dry_run THEN
        PERFORM billing_data.raise_error(
            'account_in_use', jsonb_build_object('problem', obstacle)
        );
    END IF;
    BEGIN
        v_counts := billing_data.erase_person(v_ids, v_actor);
        IF p_dry_run THEN
            RAISE SQLSTATE 'PB000';  -- this undoes what was done
        END IF;
    EXCEPTION
        WHEN SQLSTATE 'PB000' THEN
            NULL;
    END;
    IF NOT p_dry_run AND v_counts <> '{}' THEN
        PERFORM billing_data.write_audit(
            'account.erase', 'account', billing_data.surviving_account(p_account_id)::text,
            v_counts, p_reason, v_actor
        );
    END IF;
    RETURN QUERY
    SELECT c.key, c.value::bigint, CASE WHEN NOT p_force THEN erase_personal_data.obstacle END
    FROM jsonb_each_text(v_counts) AS c
    ORDER BY c.key;
END
$$;
COMMENT ON FUNCTION billing.erase_personal_data IS
    'Erases the data of a person everywhere but amounts and dates, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.erase_personal_data TO billing_server, billing_dba;

-- Erases what calls that were under way left behind of the people who were erased in the last week:
-- their checks, and the addresses of their purchases. Returns how many rows those were.
CREATE OR REPLACE FUNCTION billing_data.erase_left_behind() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ids uuid[] := ARRAY(
        SELECT e.account_id FROM billing_data.erased_accounts AS e
        WHERE e.erased_at > now() - interval '7 days'
    );
    v_checks bigint;
BEGIN
    DELETE FROM billing_data.credit_checks AS k WHERE k.account_id = ANY (v_ids);
    GET DIAGNOSTICS v_checks = ROW_COUNT;
    RETURN v_checks + billing_data.erase_purchases(v_ids);
END
$$;
COMMENT ON FUNCTION billing_data.erase_left_behind IS
    'Erases what calls under way left behind of people who were erased. Helper.';
