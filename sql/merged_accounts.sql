-- Merged accounts: where an id or an identity leads. An account that was merged keeps its row and
-- its ledger, with status 'merged'; whatever comes for it is done on the account that it leads to.
-- All other files call the functions of this file, so that no other place follows merges.

-- The accounts that an id leads through: itself, then each one that the one before was merged into.
-- The last one is in use. An id of the old service's that adoption merged has no row of its own.
CREATE OR REPLACE FUNCTION billing_data.merge_path(p_account_id uuid) RETURNS uuid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_path uuid[] := ARRAY[p_account_id];
    v_next uuid;
BEGIN
    LOOP
        SELECT m.account_id INTO v_next
        FROM billing_data.merged_accounts AS m
        WHERE m.id = v_path[cardinality(v_path)];
        EXIT WHEN NOT FOUND;
        v_path := v_path || v_next;
    END LOOP;
    RETURN v_path;
END
$$;
COMMENT ON FUNCTION billing_data.merge_path IS
    'The accounts that an account''s id leads through, the one in use last. Helper.';

-- The account that an id leads to; the id itself unless its account was merged.
CREATE OR REPLACE FUNCTION billing_data.surviving_account(p_account_id uuid) RETURNS uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_path uuid[] := billing_data.merge_path(p_account_id);
BEGIN
    RETURN v_path[cardinality(v_path)];
END
$$;
COMMENT ON FUNCTION billing_data.surviving_account IS
    'The account that the id of a merged account leads to. Helper.';

-- An account and all that were merged into it, directly or by way of others.
CREATE OR REPLACE FUNCTION billing_data.merged_family(p_account_id uuid) RETURNS uuid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE family (id) AS (
            SELECT p_account_id
            UNION ALL
            SELECT m.id
            FROM family AS f
            INNER JOIN billing_data.merged_accounts AS m ON m.account_id = f.id
        )
        SELECT f.id FROM family AS f
    );
END
$$;
COMMENT ON FUNCTION billing_data.merged_family IS
    'An account and all that were merged into it. Helper.';

-- The accounts that an identity leads through, as billing_data.merge_path; NULL without an account.
CREATE OR REPLACE FUNCTION billing_data.path_of_identity(
    p_oauth_provider text, p_external_id text
) RETURNS uuid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id uuid;
BEGIN
    SELECT a.id INTO v_id
    FROM billing_data.accounts AS a
    WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id;
    RETURN CASE WHEN v_id IS NOT NULL THEN billing_data.merge_path(v_id) END;
END
$$;
COMMENT ON FUNCTION billing_data.path_of_identity IS
    'The accounts that an identity leads through, the one in use last. Helper.';

-- The account that an identity leads to; NULL when there is none.
CREATE OR REPLACE FUNCTION billing_data.account_of_identity(
    p_oauth_provider text, p_external_id text
) RETURNS uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_path uuid[] := billing_data.path_of_identity(p_oauth_provider, p_external_id);
BEGIN
    RETURN v_path[cardinality(v_path)];
END
$$;
COMMENT ON FUNCTION billing_data.account_of_identity IS
    'The id of the account that an identity leads to, NULL when none. Helper.';

-- Whether two ids lead to one account.
CREATE OR REPLACE FUNCTION billing_data.is_one_account(p_account_id uuid, p_other_id uuid)
RETURNS boolean
LANGUAGE sql STABLE
RETURN p_account_id = p_other_id
    OR billing_data.surviving_account(p_account_id) = billing_data.surviving_account(p_other_id);
COMMENT ON FUNCTION billing_data.is_one_account IS 'Whether two ids lead to one account. Helper.';

-- Refuses a call because accounts were merged, or a merge was undone, while it waited for a lock.
-- The service makes such a call again by itself.
-- Errors: serialization_failure.
CREATE OR REPLACE FUNCTION billing_data.raise_merged_meanwhile() RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE serialization_failure USING
        MESSAGE = 'Accounts were merged, or a merge was undone, at this moment',
        HINT = 'Nothing was done; make the same call again.';
END
$$;
COMMENT ON FUNCTION billing_data.raise_merged_meanwhile IS
    'Raises serialization_failure because accounts were just merged. Helper.';

-- Refuses to go on with a locked account when the id does not lead to it any more.
-- Errors: serialization_failure.
CREATE OR REPLACE FUNCTION billing_data.require_account_of(
    p_asked_id uuid, p_account_id uuid, p_status text
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_status = 'merged' OR (
        p_asked_id <> p_account_id
        AND billing_data.surviving_account(p_asked_id) <> p_account_id
    ) THEN
        PERFORM billing_data.raise_merged_meanwhile();
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_account_of IS
    'Raises serialization_failure where an id leads elsewhere since the look-up. Helper.';

-- Locks the account that an id leads to, and returns its row; an empty row when there is none.
-- Locks: the account. Errors: serialization_failure when accounts were merged at this moment.
CREATE OR REPLACE FUNCTION billing_data.lock_account(p_account_id uuid)
RETURNS billing_data.accounts
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
BEGIN
    SELECT a.* INTO v_account
    FROM billing_data.accounts AS a
    WHERE a.id = billing_data.surviving_account(p_account_id)
    FOR NO KEY UPDATE;
    PERFORM billing_data.require_account_of(p_account_id, v_account.id, v_account.status);
    IF v_account.due_at <= billing_data.clock() THEN
        PERFORM billing_data.bring_up_to_date(ARRAY[v_account.id]);
        SELECT a.* INTO STRICT v_account
        FROM billing_data.accounts AS a
        WHERE a.id = v_account.id;
    END IF;
    RETURN v_account;
END
$$;
COMMENT ON FUNCTION billing_data.lock_account IS
    'Locks the account that an id leads to. Helper.';

-- Locks the account that an identity leads to, and returns its row; an empty row when there is
-- none.
-- Locks: the account. Errors: serialization_failure when accounts were merged at this moment.
CREATE OR REPLACE FUNCTION billing_data.lock_account_of_identity(
    p_oauth_provider text, p_external_id text
) RETURNS billing_data.accounts
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_path uuid[] := billing_data.path_of_identity(p_oauth_provider, p_external_id);
BEGIN
    RETURN billing_data.lock_account(v_path[1]);
END
$$;
COMMENT ON FUNCTION billing_data.lock_account_of_identity IS
    'Locks the account that an identity leads to. Helper.';
