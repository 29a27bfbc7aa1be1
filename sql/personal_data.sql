-- People's data: what is stored of a person, as one document; its erasing; and the consent that a
-- person withdraws. A person is an account, with the accounts that were merged into it.

-- The person's accounts: the one that an id leads to, and those that were merged into it.
CREATE OR REPLACE FUNCTION billing_data.accounts_of_person(p_account_id uuid) RETURNS uuid[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(s.id ORDER BY s.id)
    FROM unnest(
        billing_data.merged_family(billing_data.surviving_account(p_account_id))
    ) AS s (id)
$$;
COMMENT ON FUNCTION billing_data.accounts_of_person IS
    'The accounts of a person: one and those merged into it. Helper.';

-- Whether the data of an account's person was erased.
CREATE OR REPLACE FUNCTION billing_data.is_erased(p_account_id uuid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM billing_data.erased_accounts AS e WHERE e.account_id = p_account_id)
$$;
COMMENT ON FUNCTION billing_data.is_erased IS
    'Tells whether the person of an account was erased. Helper.';

-- Refuses a change by hand of an account whose person was erased. Its idempotency keys were
-- deleted, so a repeated call would count twice, and what is written to it now would not be erased.
-- Errors: account_erased.
CREATE OR REPLACE FUNCTION billing_data.refuse_erased(p_account_id uuid) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF billing_data.is_erased(p_account_id) THEN
        PERFORM billing_data.raise_error(
            'account_erased', jsonb_build_object('account_id', p_account_id)
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.refuse_erased IS
    'Refuses to change an account whose person was erased. Helper.';

-- The texts by which other rows may name a person. An external id that is short, like a number,
-- names nobody by itself.
CREATE OR REPLACE FUNCTION billing_data.names_of_person(p_account_ids uuid[]) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT lower(n.name)), '{}')
    FROM billing_data.accounts AS a
    CROSS JOIN LATERAL (
        VALUES (a.customer_email::text), (a.external_id::text), (a.wa_id::text)
    ) AS n (name)
    WHERE a.id = ANY (p_account_ids) AND length(n.name) >= 6
$$;
COMMENT ON FUNCTION billing_data.names_of_person IS
    'The texts by which other rows may name a person. Helper.';

-- Whether a text has one of these names, whatever the case.
CREATE OR REPLACE FUNCTION billing_data.names_one(p_text text, p_names text[]) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM unnest(p_names) AS n (name) WHERE position(n.name IN lower(p_text)) > 0
    )
$$;
COMMENT ON FUNCTION billing_data.names_one IS 'Whether a text has one of these names. Helper.';

-- The events of payment providers that are about a person: those of their payments, and those that
-- name their account, or say their e-mail address or their whole identity.
CREATE OR REPLACE FUNCTION billing_data.events_of_person(p_account_ids uuid[])
RETURNS TABLE (provider text, event_id text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH payments AS (
        SELECT p.provider, p.payment_id
        FROM billing_data.purchases AS p
        WHERE p.account_id = ANY (p_account_ids) AND p.payment_id IS NOT NULL
        UNION
        SELECT x.provider, x.payment_id
        FROM billing_data.payment_effects AS x
        WHERE x.account_id = ANY (p_account_ids)
    ),
    people AS (
        -- The texts as they stand in JSON, with their quotes.
        SELECT
            a.id::text AS account_id, lower(to_jsonb(a.customer_email)::text) AS email,
            lower(to_jsonb(a.oauth_provider)::text) AS oauth_provider,
            lower(to_jsonb(a.external_id)::text) AS external_id
        FROM billing_data.accounts AS a
        WHERE a.id = ANY (p_account_ids)
    )
    SELECT e.provider, e.event_id::text
    FROM billing_data.payment_events AS e
    CROSS JOIN LATERAL (SELECT lower(e.payload::text) AS text) AS l
    WHERE e.account_id = ANY (p_account_ids)
        OR EXISTS (
            SELECT FROM payments AS p
            WHERE p.provider = e.provider AND p.payment_id = e.payment_id
        )
        OR EXISTS (
            SELECT FROM people AS p
            WHERE position(p.account_id IN l.text) > 0
                OR position(p.email IN l.text) > 0
                OR (
                    position(p.external_id IN l.text) > 0
                    AND position(p.oauth_provider IN l.text) > 0
                )
        )
$$;
COMMENT ON FUNCTION billing_data.events_of_person IS
    'The payment providers'' events that are about a person. Helper.';

-- The audit rows that are about a person: those of their accounts and payments, and all that name
-- them. What was done to staff is not among them, also where a customer is one of the staff.
CREATE OR REPLACE FUNCTION billing_data.audit_rows_of_person(p_account_ids uuid[])
RETURNS TABLE (id uuid)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH known AS (
        SELECT
            billing_data.names_of_person(p_account_ids) || p_account_ids::text[] AS names,
            ARRAY(
                SELECT e.event_id FROM billing_data.events_of_person(p_account_ids) AS e
                UNION
                SELECT p.payment_id::text
                FROM billing_data.purchases AS p
                WHERE p.account_id = ANY (p_account_ids)
                UNION
                SELECT x.payment_id::text
                FROM billing_data.payment_effects AS x
                WHERE x.account_id = ANY (p_account_ids)
                UNION
                SELECT r.return_id::text
                FROM billing_data.payment_returns AS r
                WHERE r.account_id = ANY (p_account_ids)
                UNION
                SELECT w.warning_id::text
                FROM billing_data.payment_warnings AS w
                WHERE w.account_id = ANY (p_account_ids)
            ) AS payments
    )
    SELECT l.id
    FROM billing_data.admin_audit_logs AS l
    CROSS JOIN known AS k
    WHERE l.resource_type <> 'admin_user'
        AND (
            l.resource_id = ANY (p_account_ids::text[])
            OR (l.resource_type LIKE 'payment%' AND l.resource_id = ANY (k.payments))
            OR billing_data.names_one(concat_ws(' ', l.resource_id, l.reason, l.changes), k.names)
        )
$$;
COMMENT ON FUNCTION billing_data.audit_rows_of_person IS
    'The audit rows that are about a person. Helper.';

-- The outcomes of charges sent as a list under one key that are this person's, with the list's key.
CREATE OR REPLACE FUNCTION billing_data.batches_of_person(p_account_ids uuid[])
RETURNS TABLE (api_key_id uuid, idempotency_key text, created_at timestamptz, outcome jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.api_key_id, b.idempotency_key::text, b.created_at, o.outcome
    FROM billing_data.batch_requests AS b
    CROSS JOIN LATERAL jsonb_array_elements(b.answer) AS o (outcome)
    WHERE o.outcome ->> 'account_id' = ANY (p_account_ids::text[])
$$;
COMMENT ON FUNCTION billing_data.batches_of_person IS
    'The remembered outcomes of lists of charges that are a person''s. Helper.';

-- All that is stored of a person, by table. What follows from other rows is left out: digests,
-- fingerprints, and counts of uses by day. The staff members who acted are left out, too.
CREATE OR REPLACE FUNCTION billing_data.personal_data(p_account_ids uuid[]) RETURNS json
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT json_object_agg(t.name, coalesce(t.contents, '[]'))
    FROM (
        VALUES
        ('accounts', (
            SELECT json_agg(to_jsonb(a) ORDER BY a.id)
            FROM billing_data.accounts AS a
            WHERE a.id = ANY (p_account_ids)
        )),
        ('charges', (
            SELECT json_agg(
                to_jsonb(c) - '{digest,request_fingerprint,admin_user_id}'::text[]
                ORDER BY c.account_id, c.ledger_version
            )
            FROM billing_data.charges AS c
            WHERE c.account_id = ANY (p_account_ids)
        )),
        ('credits', (
            SELECT json_agg(
                to_jsonb(c) - '{digest,request_fingerprint,admin_user_id}'::text[]
                ORDER BY c.account_id, c.ledger_version
            )
            FROM billing_data.credits AS c
            WHERE c.account_id = ANY (p_account_ids)
        )),
        ('credit_checks', (
            -- A check of the old service may have an identity and no account.
            SELECT json_agg(to_jsonb(k) ORDER BY k.created_at, k.id)
            FROM billing_data.credit_checks AS k
            WHERE k.account_id = ANY (p_account_ids)
                OR (
                    k.account_id IS NULL
                    AND (k.oauth_provider, k.external_id) IN (
                        SELECT a.oauth_provider, a.external_id
                        FROM billing_data.accounts AS a
                        WHERE a.id = ANY (p_account_ids)
                    )
                )
        )),
        ('account_notes', (
            SELECT json_agg(to_jsonb(n) - 'admin_user_id' ORDER BY n.created_at)
            FROM billing_data.account_notes AS n
            WHERE n.account_id = ANY (p_account_ids)
        )),
        ('account_merges', (
            SELECT json_agg(
                to_jsonb(m) - '{request_fingerprint,admin_user_id}'::text[] ORDER BY m.created_at
            )
            FROM billing_data.account_merges AS m
            WHERE m.account_id = ANY (p_account_ids) OR m.merged_account_id = ANY (p_account_ids)
        )),
        ('grant_schedules', (
            SELECT json_agg(
                to_jsonb(g) - '{request_fingerprint,admin_user_id}'::text[] ORDER BY g.created_at
            )
            FROM billing_data.grant_schedules AS g
            WHERE g.account_id = ANY (p_account_ids)
        )),
        ('lots', (
            SELECT json_agg(to_jsonb(l) ORDER BY l.created_at, l.id)
            FROM billing_data.lots AS l
            WHERE l.account_id = ANY (p_account_ids)
        )),
        ('holds', (
            SELECT json_agg(to_jsonb(h) - 'request_fingerprint' ORDER BY h.created_at)
            FROM billing_data.holds AS h
            WHERE h.account_id = ANY (p_account_ids)
        )),
        ('hold_changes', (
            SELECT json_agg(
                to_jsonb(c) - '{admin_user_id,database_role}'::text[] ORDER BY c.created_at
            )
            FROM billing_data.hold_changes AS c
            INNER JOIN billing_data.holds AS h ON h.id = c.hold_id
            WHERE h.account_id = ANY (p_account_ids)
        )),
        ('refused_charges', (
            SELECT json_agg(to_jsonb(r) ORDER BY r.minute, r.reason)
            FROM billing_data.refused_charges AS r
            WHERE r.account_id = ANY (p_account_ids)
        )),
        ('outbox', (
            SELECT json_agg(to_jsonb(o) ORDER BY o.id)
            FROM billing_data.outbox AS o
            WHERE o.account_id = ANY (p_account_ids)
        )),
        ('account_requests', (
            SELECT json_agg(to_jsonb(r) - 'request_fingerprint' ORDER BY r.created_at)
            FROM billing_data.account_requests AS r
            WHERE r.account_id = ANY (p_account_ids)
        )),
        ('batch_requests', (
            SELECT json_agg(to_jsonb(b) ORDER BY b.created_at)
            FROM billing_data.batches_of_person(p_account_ids) AS b
        )),
        ('purchases', (
            SELECT json_agg(
                to_jsonb(p) - '{request_fingerprint,admin_user_id}'::text[] ORDER BY p.created_at
            )
            FROM billing_data.purchases AS p
            WHERE p.account_id = ANY (p_account_ids)
        )),
        ('top_ups', (
            SELECT json_agg(to_jsonb(t) ORDER BY t.consented_at)
            FROM billing_data.top_ups AS t
            WHERE t.account_id = ANY (p_account_ids)
        )),
        ('top_up_attempts', (
            SELECT json_agg(to_jsonb(x) ORDER BY x.created_at)
            FROM billing_data.top_up_attempts AS x
            WHERE x.account_id = ANY (p_account_ids)
        )),
        ('payment_effects', (
            SELECT json_agg(to_jsonb(x) ORDER BY x.created_at)
            FROM billing_data.payment_effects AS x
            WHERE x.account_id = ANY (p_account_ids)
        )),
        ('payment_refunds', (
            SELECT json_agg(to_jsonb(f) - 'admin_user_id' ORDER BY f.created_at)
            FROM billing_data.payment_refunds AS f
            WHERE f.account_id = ANY (p_account_ids)
        )),
        ('payment_returns', (
            SELECT json_agg(to_jsonb(r) ORDER BY r.created_at)
            FROM billing_data.payment_returns AS r
            WHERE r.account_id = ANY (p_account_ids)
        )),
        ('payment_warnings', (
            SELECT json_agg(to_jsonb(w) ORDER BY w.created_at)
            FROM billing_data.payment_warnings AS w
            WHERE w.account_id = ANY (p_account_ids)
        )),
        ('payment_events', (
            SELECT json_agg(to_jsonb(e) ORDER BY e.received_at)
            FROM billing_data.events_of_person(p_account_ids) AS i
            INNER JOIN billing_data.payment_events AS e
                ON e.provider = i.provider AND e.event_id = i.event_id
        )),
        ('admin_audit_logs', (
            SELECT json_agg(
                to_jsonb(l)
                - '{admin_user_id,database_role,database_login,ip_address,user_agent}'::text[]
                ORDER BY l.created_at
            )
            FROM billing_data.audit_rows_of_person(p_account_ids) AS i
            INNER JOIN billing_data.admin_audit_logs AS l ON l.id = i.id
        ))
    ) AS t (name, contents)
$$;
COMMENT ON FUNCTION billing_data.personal_data IS
    'All that is stored of a person, by table. Helper.';

-- Everything that is stored of a person, as one JSON document: tables has the rows of each table
-- that may have any. The accounts that were merged into this one are a part of it. The staff
-- members who acted are left out, and so is what follows from other rows. It reads the payment
-- events and the audit log as a whole, which takes a while where they are large.
-- Writes: admin_audit_logs 1. Errors: actor errors, account_not_found.
-- Example: SELECT billing.export_personal_data(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.export_personal_data(
    p_account_id uuid, p_session_hash bytea DEFAULT NULL
) RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_ids uuid[] := billing_data.accounts_of_person(p_account_id);
    v_document json;
BEGIN
    IF NOT EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = ANY (v_ids)) THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    v_document := json_build_object(
        'account_id', billing_data.surviving_account(p_account_id),
        'exported_at', clock_timestamp(),
        'tables', billing_data.personal_data(v_ids)
    );
    PERFORM billing_data.write_audit(
        'account.export', 'account', billing_data.surviving_account(p_account_id)::text, NULL,
        NULL, v_actor
    );
    RETURN v_document;
END
$$;
COMMENT ON FUNCTION billing.export_personal_data IS
    'Everything that is stored of a person, as one JSON document. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.export_personal_data TO billing_server, billing_dba;

-- Withdraws a person's consent to marketing, of the account p_account_id or of the identity. A
-- consent that agents go on sending does not count again. With p_undo true, the next consent that
-- an agent sends counts again. changed is false when nothing had to change.
-- Locks: the account. Writes: accounts 0..1, admin_audit_logs 0..1. Errors: actor errors,
-- invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.withdraw_consent(p_reason => 'asked by e-mail',
--     p_oauth_provider => 'oauth:google', p_external_id => '1');
CREATE OR REPLACE FUNCTION billing.withdraw_consent(
    p_reason text,
    p_account_id uuid DEFAULT NULL,
    p_oauth_provider text DEFAULT NULL,
    p_external_id text DEFAULT NULL,
    p_undo boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (account_id uuid, withdrawn_at timestamptz, changed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_account billing_data.accounts;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(p_undo IS NOT NULL, 'p_undo', 'it must be true or false');
    PERFORM billing_data.require(
        num_nonnulls(p_account_id, p_external_id) = 1
        AND (p_oauth_provider IS NULL) = (p_external_id IS NULL),
        'p_account_id', 'give either the account or the whole identity'
    );
    PERFORM billing_data.require_durable_commit();
    v_account := CASE
        WHEN p_account_id IS NOT NULL THEN billing_data.lock_account(p_account_id)
        ELSE billing_data.lock_account_of_identity(p_oauth_provider, p_external_id)
    END;
    IF v_account.id IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    account_id := v_account.id;
    withdrawn_at := CASE
        WHEN NOT p_undo THEN coalesce(v_account.marketing_withdrawn_at, clock_timestamp())
    END;
    changed := withdrawn_at IS DISTINCT FROM v_account.marketing_withdrawn_at;
    IF changed THEN
        UPDATE billing_data.accounts AS a
        SET marketing_opt_in = false,
            marketing_opt_in_at = NULL,
            marketing_opt_in_source = NULL,
            marketing_withdrawn_at = withdrawn_at,
            updated_at = clock_timestamp()
        WHERE a.id = v_account.id;
        PERFORM billing_data.write_audit(
            'account.withdraw_consent', 'account', v_account.id::text,
            jsonb_build_object(
                'undo', p_undo, 'had_opted_in', v_account.marketing_opt_in,
                'opted_in_at', v_account.marketing_opt_in_at
            ),
            p_reason, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.withdraw_consent IS
    'Withdraws a person''s consent to marketing, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.withdraw_consent TO billing_server, billing_dba;
