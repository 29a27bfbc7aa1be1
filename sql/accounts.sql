-- Accounts. The identity of an account is (oauth_provider, external_id) and nothing else. wa_id and
-- tenant_id are stored when the account is created; no look-up uses them.

-- The account as it is after a profile update: the one rule for checks, charges and credits.
-- E-mail, role and agent are replaced when they are given. Consent goes from false to true only;
-- the change stores p_now and the source of the consent. A value that is false or absent never
-- clears anything. Consent that was withdrawn (billing.withdraw_consent) is not given again by what
-- an agent goes on sending.
CREATE OR REPLACE FUNCTION billing_data.with_profile(
    p_account billing_data.accounts,
    p_customer_email text,
    p_user_role text,
    p_agent_id text,
    p_marketing_opt_in boolean,
    p_marketing_opt_in_source text,
    p_now timestamptz
) RETURNS billing_data.accounts
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    p_account.customer_email := coalesce(p_customer_email, p_account.customer_email);
    p_account.user_role := coalesce(p_user_role, p_account.user_role);
    p_account.agent_id := coalesce(p_agent_id, p_account.agent_id);
    IF p_marketing_opt_in AND NOT p_account.marketing_opt_in
        AND p_account.marketing_withdrawn_at IS NULL
    THEN
        p_account.marketing_opt_in := true;
        p_account.marketing_opt_in_at := p_now;
        p_account.marketing_opt_in_source :=
            coalesce(p_marketing_opt_in_source, p_account.marketing_opt_in_source);
    END IF;
    RETURN p_account;
END
$$;
COMMENT ON FUNCTION billing_data.with_profile IS
    'The account as it is after a profile update; changes no table. Helper.';

-- Whether a profile update would change this account. It is the same rule as with_profile, without
-- a copy of the row. A merged account never changes.
CREATE OR REPLACE FUNCTION billing_data.changes_profile(
    p_account billing_data.accounts,
    p_customer_email text,
    p_user_role text,
    p_agent_id text,
    p_marketing_opt_in boolean
) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN (
    num_nonnulls(
        nullif(p_customer_email, (p_account).customer_email),
        nullif(p_user_role, (p_account).user_role),
        nullif(p_agent_id, (p_account).agent_id)
    ) > 0
    OR (
        p_marketing_opt_in AND NOT (p_account).marketing_opt_in
        AND (p_account).marketing_withdrawn_at IS NULL
    ) IS TRUE
) AND (p_account).status <> 'merged';
COMMENT ON FUNCTION billing_data.changes_profile IS
    'Whether a profile update would change an account. Helper.';

-- Whether an item carries a profile field that could change an account.
CREATE OR REPLACE FUNCTION billing_data.has_profile(
    p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN num_nonnulls(p_customer_email, p_user_role, p_agent_id) > 0 OR p_marketing_opt_in IS TRUE;
COMMENT ON FUNCTION billing_data.has_profile IS
    'Whether an item carries a profile update. Helper.';

-- Applies a profile update.
-- Locks: the account. Writes: accounts 0..1.
CREATE OR REPLACE FUNCTION billing_data.change_profile(
    p_account_id uuid,
    p_customer_email text,
    p_user_role text,
    p_agent_id text,
    p_marketing_opt_in boolean,
    p_marketing_opt_in_source text
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    UPDATE billing_data.accounts AS a
    SET (
        customer_email, user_role, agent_id, marketing_opt_in, marketing_opt_in_at,
        marketing_opt_in_source, updated_at
    ) = (
        SELECT
            p.customer_email, p.user_role, p.agent_id, p.marketing_opt_in, p.marketing_opt_in_at,
            p.marketing_opt_in_source, v_now
        FROM billing_data.with_profile(
            a, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in,
            p_marketing_opt_in_source, v_now
        ) AS p
    )
    WHERE a.id = p_account_id
        AND billing_data.changes_profile(
            a, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in
        );
END
$$;
COMMENT ON FUNCTION billing_data.change_profile IS
    'Applies a profile update to an account. Helper.';

-- Locks all of these accounts; none may be given twice. While it waits for one account it holds
-- none of the others, so an account that another transaction holds for long delays nobody else.
-- After such a wait it locks the accounts one after the other, because other calls lock each of
-- them for milliseconds all the time, and all of them are hardly ever free at once. With p_wait
-- false it waits a moment at most: when an account is still held, it locks nothing and returns
-- false.
-- Locks: the accounts, in id order. Writes: none. Errors: lock_not_available when one is still held
-- after the session's lock_timeout.
CREATE OR REPLACE FUNCTION billing_data.lock_accounts(p_account_ids uuid[], p_wait boolean)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_lock_timeout text := current_setting('lock_timeout');
    v_patience interval :=  -- 0 means without limit
        (CASE WHEN p_wait THEN v_lock_timeout ELSE '10ms' END)::interval;
    v_began timestamptz := clock_timestamp();
    v_left interval;
    v_in_order boolean := false;
    v_locked uuid[];
    v_held uuid;
    v_is_free boolean;
BEGIN
    IF p_wait AND cardinality(p_account_ids) = 1 THEN
        PERFORM FROM billing_data.accounts AS a WHERE a.id = p_account_ids[1] FOR NO KEY UPDATE;
        PERFORM billing_data.bring_up_to_date(p_account_ids);
        RETURN true;
    END IF;
    <<attempts>>
    LOOP
        v_locked := ARRAY[]::uuid[];
        BEGIN
            PERFORM set_config('lock_timeout', '50ms', true);
            IF v_in_order THEN
                v_locked := ARRAY(
                    SELECT a.id
                    FROM billing_data.accounts AS a
                    WHERE a.id = ANY (p_account_ids)
                    ORDER BY a.id
                    FOR NO KEY UPDATE
                );
            ELSE
                v_locked := ARRAY(
                    SELECT a.id
                    FROM billing_data.accounts AS a
                    WHERE a.id = ANY (p_account_ids)
                    ORDER BY a.id
                    FOR NO KEY UPDATE SKIP LOCKED
                );
            END IF;
            IF cardinality(v_locked) = cardinality(p_account_ids) THEN
                PERFORM set_config('lock_timeout', v_lock_timeout, true);
                PERFORM billing_data.bring_up_to_date(p_account_ids);
                RETURN true;
            END IF;
            RAISE lock_not_available;  -- this gives back the locks taken so far
        EXCEPTION
            WHEN lock_not_available THEN
                v_in_order := true;
        END;
        FOR v_held IN
            SELECT i.id
            FROM unnest(p_account_ids) AS i (id)
            WHERE i.id <> ALL (v_locked)
            ORDER BY i.id
        LOOP
            v_left := v_patience - (clock_timestamp() - v_began);
            IF v_patience = interval '0' THEN
                v_left := v_patience;
            END IF;
            EXIT attempts WHEN v_left < interval '1ms' AND v_patience > interval '0';
            v_is_free := false;
            BEGIN
                PERFORM set_config(
                    'lock_timeout', (extract(EPOCH FROM v_left) * 1000)::bigint::text, true
                );
                PERFORM FROM billing_data.accounts AS a WHERE a.id = v_held FOR NO KEY UPDATE;
                v_is_free := true;
                RAISE lock_not_available;  -- this gives back the locks taken so far
            EXCEPTION
                WHEN lock_not_available THEN
                    EXIT attempts WHEN NOT v_is_free;
            END;
        END LOOP;
    END LOOP;
    IF p_wait THEN
        RAISE lock_not_available USING
            MESSAGE = 'Another transaction holds one of the accounts',
            HINT = 'Nothing was done; try again when it has ended.';
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION billing_data.lock_accounts IS
    'Locks several accounts, holding none while it waits; false when one stays held. Helper.';

-- Locks the accounts of a list of items, and returns those that are locked, in id order. With
-- p_wait false, accounts that another transaction holds are left out, and so are merged ones. What
-- is due for the accounts is booked.
-- Locks: the accounts, in id order. Errors: with p_wait, those of billing_data.lock_accounts.
CREATE OR REPLACE FUNCTION billing_data.lock_for_list(p_account_ids uuid[], p_wait boolean)
RETURNS uuid[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_lock_timeout text := current_setting('lock_timeout');
    v_locked uuid[];
    v_due uuid[];
BEGIN
    IF p_wait THEN
        PERFORM billing_data.lock_accounts(p_account_ids, p_wait => true);
        RETURN p_account_ids;
    END IF;
    -- SKIP LOCKED skips held rows. It waits only for a row that was updated after our snapshot and
    -- is locked again; the timeout bounds that wait for the whole call.
    PERFORM set_config('lock_timeout', '50ms', true);
    SELECT
        coalesce(array_agg(l.id), '{}'),
        array_agg(l.id) FILTER (WHERE l.due_at <= billing_data.clock())
    INTO STRICT v_locked, v_due
    FROM (
        SELECT a.id, a.due_at
        FROM billing_data.accounts AS a
        WHERE a.id = ANY (p_account_ids) AND a.status <> 'merged'  -- at this moment
        ORDER BY a.id
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS l;
    PERFORM set_config('lock_timeout', v_lock_timeout, true);
    IF v_due IS NOT NULL THEN
        PERFORM billing_data.bring_up_to_date(v_due);
    END IF;
    RETURN v_locked;
END
$$;
COMMENT ON FUNCTION billing_data.lock_for_list IS
    'Locks the accounts of a list of items; with p_wait false without waiting. Helper.';

-- Finds the account that an identity leads to, or creates one with the configured free uses, no
-- credits and status active. The unique index makes two calls that create one identity wait for
-- each other.
-- With p_wait false the call waits a few milliseconds for the other creator and then returns no
-- row.
-- Locks: the identity's index entry. Writes: accounts 0 or 1. An existing account is returned
-- unchanged.
CREATE OR REPLACE FUNCTION billing_data.find_or_create_account(
    p_oauth_provider text,
    p_external_id text,
    p_wa_id text,
    p_tenant_id text,
    p_balance_minor bigint,
    p_currency text,
    p_plan_name text,
    p_customer_email text,
    p_user_role text,
    p_agent_id text,
    p_marketing_opt_in boolean,
    p_marketing_opt_in_source text,
    p_wait boolean
) RETURNS TABLE (account billing_data.accounts, created boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_found record;
    v_now timestamptz;
    v_lock_timeout text;
BEGIN
    SELECT a AS account, false AS created INTO v_found
    FROM billing_data.accounts AS a
    WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id;
    IF (v_found.account).status = 'merged' THEN
        SELECT a AS account, false AS created INTO STRICT v_found
        FROM billing_data.accounts AS a
        WHERE a.id = billing_data.surviving_account((v_found.account).id);
    END IF;
    IF (v_found.account).id IS NOT NULL THEN
        RETURN QUERY SELECT v_found.account, v_found.created;
        RETURN;
    END IF;

    IF NOT p_wait THEN
        v_lock_timeout := current_setting('lock_timeout');
        BEGIN
            PERFORM set_config('lock_timeout', '5ms', true);
            SELECT f.account, f.created INTO STRICT v_found
            FROM billing_data.find_or_create_account(
                p_oauth_provider, p_external_id, p_wa_id, p_tenant_id, p_balance_minor, p_currency,
                p_plan_name, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in,
                p_marketing_opt_in_source, p_wait => true
            ) AS f;
            PERFORM set_config('lock_timeout', v_lock_timeout, true);
        EXCEPTION
            WHEN lock_not_available THEN  -- this also undoes the setting
                RETURN;
        END;
        RETURN QUERY SELECT v_found.account, v_found.created;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    INSERT INTO billing_data.accounts AS a (
        oauth_provider, external_id, wa_id, tenant_id, balance_minor, currency, plan_name,
        free_uses_remaining, free_uses_granted, customer_email, user_role, agent_id,
        marketing_opt_in, marketing_opt_in_at, marketing_opt_in_source, created_at, updated_at
    )
    SELECT
        p_oauth_provider, p_external_id, p_wa_id, p_tenant_id, p_balance_minor, p_currency,
        p_plan_name, s.free_uses, s.free_uses, p_customer_email, p_user_role, p_agent_id,
        coalesce(p_marketing_opt_in, false), CASE WHEN p_marketing_opt_in THEN v_now END,
        p_marketing_opt_in_source, v_now, v_now
    FROM billing_data.settings AS s
    ON CONFLICT ON CONSTRAINT accounts_identity DO NOTHING
    RETURNING a AS account, true AS created INTO v_found;
    IF NOT FOUND THEN
        -- Another call created the account after our SELECT.
        SELECT a AS account, false AS created INTO STRICT v_found
        FROM billing_data.accounts AS a
        WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id;
    END IF;
    RETURN QUERY SELECT v_found.account, v_found.created;
END
$$;
COMMENT ON FUNCTION billing_data.find_or_create_account IS
    'Finds an identity''s account or creates it; no row if that needs a wait not allowed. Helper.';

-- Refuses an identity that is not well formed. It is for callers in psql; the web tier checks the
-- shape of its requests.
CREATE OR REPLACE FUNCTION billing_data.require_identity(p_oauth_provider text, p_external_id text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        starts_with(p_oauth_provider, 'oauth:'), 'p_oauth_provider', 'it must start with "oauth:"'
    );
    PERFORM billing_data.require_short(p_oauth_provider, 'p_oauth_provider');
    PERFORM billing_data.require(
        length(p_external_id) > 0, 'p_external_id', 'it must not be empty'
    );
    PERFORM billing_data.require_short(p_external_id, 'p_external_id');
END
$$;
COMMENT ON FUNCTION billing_data.require_identity IS
    'Raises invalid_argument unless provider and external id are well formed. Helper.';

-- Refuses profile fields that are too long. It is for callers in psql; the web tier checks the
-- shape of its requests.
CREATE OR REPLACE FUNCTION billing_data.require_profile(
    p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in_source text
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_short(p_customer_email, 'p_customer_email');
    PERFORM billing_data.require_short(p_user_role, 'p_user_role');
    PERFORM billing_data.require_short(p_agent_id, 'p_agent_id');
    PERFORM billing_data.require_short(p_marketing_opt_in_source, 'p_marketing_opt_in_source');
END
$$;
COMMENT ON FUNCTION billing_data.require_profile IS
    'Raises invalid_argument when a profile field is too long. Helper.';

-- Creates the account of an identity, or returns the existing one unchanged. With
-- p_idempotency_key, the first answer is recorded for this account and key: the same request gets
-- that answer again (replayed true), and another request is refused.
-- Locks: the identity's index entry, then account_requests (account, key). Writes: accounts 0..1,
-- account_requests 0..1. Errors: actor and key errors, invalid_argument, idempotency_key_reused.
-- Example:
--   SELECT * FROM billing.create_account(p_oauth_provider => 'oauth:google', p_external_id => '1');
CREATE OR REPLACE FUNCTION billing.create_account(
    p_oauth_provider text,
    p_external_id text,
    p_wa_id text DEFAULT NULL,
    p_tenant_id text DEFAULT NULL,
    p_initial_balance_minor bigint DEFAULT 0,
    p_currency text DEFAULT 'USD',
    p_plan_name text DEFAULT 'free',
    p_customer_email text DEFAULT NULL,
    p_user_role text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_marketing_opt_in boolean DEFAULT false,
    p_marketing_opt_in_source text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid,
    oauth_provider text,
    external_id text,
    wa_id text,
    tenant_id text,
    customer_email text,
    balance_minor bigint,
    currency text,
    plan_name text,
    status text,
    paid_credits bigint,
    marketing_opt_in boolean,
    marketing_opt_in_at timestamptz,
    marketing_opt_in_source text,
    created_at timestamptz,
    updated_at timestamptz,
    account_created boolean,
    replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_fingerprint bytea;
    v_first record;
    v_replayed boolean := false;
    v_found record;
    v_request_of uuid;
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:write');
    PERFORM billing_data.require_identity(p_oauth_provider, p_external_id);
    PERFORM billing_data.require(
        p_initial_balance_minor >= 0, 'p_initial_balance_minor', 'it must be 0 or more'
    );
    PERFORM billing_data.require_currency(p_currency, 'p_currency');
    PERFORM billing_data.require(
        length(p_plan_name) > 0, 'p_plan_name', 'it must not be empty'
    );
    PERFORM billing_data.require_short(p_plan_name, 'p_plan_name');
    PERFORM billing_data.require_short(p_wa_id, 'p_wa_id');
    PERFORM billing_data.require_short(p_tenant_id, 'p_tenant_id');
    PERFORM billing_data.require_profile(
        p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in_source
    );
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require_durable_commit();

    SELECT f.account, f.created INTO STRICT v_found
    FROM billing_data.find_or_create_account(
        p_oauth_provider, p_external_id, p_wa_id, p_tenant_id, p_initial_balance_minor, p_currency,
        p_plan_name, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in,
        p_marketing_opt_in_source, p_wait => true
    ) AS f;
    v_account := v_found.account;
    -- As get_account: without credits that have ended and are not booked yet.
    v_account.paid_credits := (billing_data.standing(v_account)).paid_credits;

    IF p_idempotency_key IS NOT NULL THEN
        -- A key that was used for this identity before its account was merged counts as used.
        SELECT r.account_id INTO v_request_of
        FROM billing_data.account_requests AS r
        WHERE r.account_id = ANY (billing_data.path_of_identity(p_oauth_provider, p_external_id))
            AND r.idempotency_key = p_idempotency_key
        ORDER BY r.created_at
        LIMIT 1;
        v_request_of := coalesce(v_request_of, v_account.id);
        v_fingerprint := billing_data.fingerprint(
            billing_data.field_hash('wa_id', p_wa_id)
            # billing_data.field_hash('tenant_id', p_tenant_id)
            # billing_data.field_hash(
                'initial_balance_minor', nullif(p_initial_balance_minor, 0)::text
            )
            # billing_data.field_hash('currency', p_currency)
            # billing_data.field_hash('plan_name', p_plan_name)
            # billing_data.profile_hash(
                p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in,
                p_marketing_opt_in_source
            )
        );
        INSERT INTO billing_data.account_requests AS r (
            account_id, idempotency_key, request_fingerprint, answer
        )
        VALUES (v_request_of, p_idempotency_key, v_fingerprint, to_jsonb(v_account))
        ON CONFLICT ON CONSTRAINT account_requests_pkey DO NOTHING;
        IF NOT FOUND THEN
            SELECT r.request_fingerprint, r.answer INTO STRICT v_first
            FROM billing_data.account_requests AS r
            WHERE r.account_id = v_request_of AND r.idempotency_key = p_idempotency_key;
            IF billing_data.is_other_request(v_first.request_fingerprint, v_fingerprint) THEN
                PERFORM billing_data.raise_error('idempotency_key_reused');
            END IF;
            v_account := jsonb_populate_record(NULL::billing_data.accounts, v_first.answer);
            v_replayed := true;
        END IF;
    END IF;

    RETURN QUERY SELECT
        v_account.id, v_account.oauth_provider::text, v_account.external_id::text,
        v_account.wa_id::text, v_account.tenant_id::text, v_account.customer_email::text,
        v_account.balance_minor, v_account.currency::text, v_account.plan_name::text,
        v_account.status::text, v_account.paid_credits, v_account.marketing_opt_in,
        v_account.marketing_opt_in_at, v_account.marketing_opt_in_source::text,
        v_account.created_at, v_account.updated_at,
        v_found.created AND NOT v_replayed, v_replayed;
END
$$;
COMMENT ON FUNCTION billing.create_account IS
    'Creates an identity''s account, or returns the existing one untouched. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_account TO billing_server, billing_dba;

-- Reads one account. held is what open holds keep of paid_credits; NULL when there is none.
-- Errors: actor and key errors, account_not_found.
-- Example:
--   SELECT * FROM billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => '1');
CREATE OR REPLACE FUNCTION billing.get_account(
    p_oauth_provider text,
    p_external_id text,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid,
    oauth_provider text,
    external_id text,
    wa_id text,
    tenant_id text,
    customer_email text,
    balance_minor bigint,
    currency text,
    plan_name text,
    status text,
    paid_credits bigint,
    marketing_opt_in boolean,
    marketing_opt_in_at timestamptz,
    marketing_opt_in_source text,
    created_at timestamptz,
    updated_at timestamptz,
    free_uses_remaining bigint,
    total_uses bigint,
    user_role text,
    agent_id text,
    ledger_version bigint,
    held bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        a.id, a.oauth_provider::text, a.external_id::text, a.wa_id::text, a.tenant_id::text,
        a.customer_email::text, a.balance_minor, a.currency::text, a.plan_name::text,
        a.status::text, (billing_data.standing(a)).paid_credits, a.marketing_opt_in,
        a.marketing_opt_in_at, a.marketing_opt_in_source::text, a.created_at, a.updated_at,
        a.free_uses_remaining,
        a.total_uses, a.user_role::text, a.agent_id::text, a.ledger_version,
        nullif((billing_data.standing(a)).held, 0)
    FROM billing_data.accounts AS a
    WHERE a.id = billing_data.account_of_identity(p_oauth_provider, p_external_id);
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
END
$$;
COMMENT ON FUNCTION billing.get_account IS
    'Reads one account by its identity. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_account TO billing_server, billing_dba;

-- Suspends, reactivates or closes an account. Suspended and closed accounts cannot be charged but
-- still take credits. Locks: the account. Writes: accounts 1, admin_audit_logs 1 when it changed,
-- outbox 0..n.
-- Errors: actor errors, invalid_argument, account_not_found, account_erased.
-- Example: SELECT * FROM billing.set_account_status(p_oauth_provider => 'oauth:google',
--              p_external_id => '1', p_status => 'suspended', p_reason => 'chargeback');
CREATE OR REPLACE FUNCTION billing.set_account_status(
    p_oauth_provider text,
    p_external_id text,
    p_status text,
    p_reason text,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (account_id uuid, status text, previous_status text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_id uuid;
    v_previous text;
BEGIN
    PERFORM billing_data.require(
        p_status IN ('active', 'suspended', 'closed'),
        'p_status', 'it must be active, suspended or closed'
    );
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_durable_commit();
    SELECT k.id, k.status INTO v_id, v_previous
    FROM billing_data.lock_account_of_identity(p_oauth_provider, p_external_id) AS k;
    IF v_id IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM billing_data.refuse_erased(v_id);
    IF v_previous <> p_status THEN
        UPDATE billing_data.accounts AS a
        SET status = p_status, updated_at = clock_timestamp()
        WHERE a.id = v_id;
        PERFORM billing_data.write_audit(
            'account.set_status', 'account', v_id::text,
            jsonb_build_object('before', v_previous, 'after', p_status), p_reason,
            v_actor
        );
        IF p_status = 'suspended' OR p_status = 'active' THEN
            PERFORM billing_data.raise_alert(
                CASE p_status
                    WHEN 'suspended' THEN 'account.suspended' ELSE 'account.reactivated'
                END,
                v_id, jsonb_build_object('previous_status', v_previous)
            );
        END IF;
    END IF;
    RETURN QUERY SELECT v_id, p_status, v_previous;
END
$$;
COMMENT ON FUNCTION billing.set_account_status IS
    'Suspends, reactivates or closes an account, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_account_status TO billing_server, billing_dba;
