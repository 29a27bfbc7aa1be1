-- Two accounts become one. The account that is merged keeps its row and its ledger, which a
-- transfer of its paid credits closes; its id and its identity lead to the other one (see
-- merged_accounts.sql). A merge can be undone as long as the account that took the other one in has
-- not changed.

-- What a merge would do, for two accounts that are locked. The account that stays gets the free
-- uses of both, but not more than a new account gets or one of the two has already. The adoption of
-- the old service's accounts has the same rule. The profile of the account that stays is kept. A
-- consent counts for both, with the time and source of the newest one, unless it was withdrawn from
-- the account that stays. A withdrawal of the merged account counts for both unless the other one
-- agreed later.
-- Errors: account_has_holds, account_not_active and those of billing_data.require_transfer.
CREATE OR REPLACE FUNCTION billing_data.plan_merge(
    p_merged billing_data.accounts, p_account billing_data.accounts
) RETURNS billing_data.account_merges
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_merge billing_data.account_merges;
BEGIN
    IF p_merged.held_credits + p_merged.held_free_uses > 0 THEN
        PERFORM billing_data.raise_error(
            'account_has_holds', jsonb_build_object('account_id', p_merged.id)
        );
    END IF;
    PERFORM billing_data.require_transfer(p_merged, p_account, p_merged.paid_credits);
    -- The account that stays must be active, too: otherwise the merge would shut the merged
    -- account's user out.
    IF p_account.status <> 'active' THEN
        PERFORM billing_data.raise_error('account_not_active', jsonb_build_object(
            'account_id', p_account.id, 'status', p_account.status
        ));
    END IF;
    v_merge.merged_account_id := p_merged.id;
    v_merge.account_id := p_account.id;
    v_merge.credits := p_merged.paid_credits;
    v_merge.balance_after := p_account.paid_credits + p_merged.paid_credits;
    v_merge.free_uses_taken := p_merged.free_uses_remaining;
    SELECT
        least(
            p_account.free_uses_remaining::numeric + p_merged.free_uses_remaining,
            greatest(p_account.free_uses_remaining, p_merged.free_uses_remaining, s.free_uses)
        )::bigint
    INTO STRICT v_merge.free_uses_after
    FROM billing_data.settings AS s;
    v_merge.free_uses_given := v_merge.free_uses_after - p_account.free_uses_remaining;
    IF p_account.marketing_withdrawn_at IS NULL AND (
        (
            p_merged.marketing_opt_in AND (
                NOT p_account.marketing_opt_in
                OR coalesce(p_merged.marketing_opt_in_at > p_account.marketing_opt_in_at, false)
            )
        ) OR (
            p_merged.marketing_withdrawn_at IS NOT NULL
            AND (p_account.marketing_opt_in_at > p_merged.marketing_withdrawn_at) IS NOT TRUE
        )
    ) THEN
        v_merge.consent_before := jsonb_build_object(
            'marketing_opt_in', p_account.marketing_opt_in,
            'marketing_opt_in_at', p_account.marketing_opt_in_at,
            'marketing_opt_in_source', p_account.marketing_opt_in_source,
            'marketing_withdrawn_at', p_account.marketing_withdrawn_at
        );
    END IF;
    RETURN v_merge;
END
$$;
COMMENT ON FUNCTION billing_data.plan_merge IS
    'What a merge of two accounts would do; changes nothing. Helper.';

-- Makes the id of one account lead to another. An account that others lead to gets a higher rank
-- than each of them, which a constraint demands, so there can be no circle.
-- Locks: none, the caller holds both accounts. Writes: merge_ranks 1..2, merged_accounts 1..n.
CREATE OR REPLACE FUNCTION billing_data.lead_account_to(p_id uuid, p_account_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rank bigint;
    v_account_rank bigint;
BEGIN
    INSERT INTO billing_data.merge_ranks AS r (account_id, rank)
    VALUES (p_id, 1)
    ON CONFLICT ON CONSTRAINT merge_ranks_pkey DO NOTHING;
    SELECT r.rank INTO STRICT v_rank
    FROM billing_data.merge_ranks AS r
    WHERE r.account_id = p_id;
    INSERT INTO billing_data.merge_ranks AS r (account_id, rank)
    VALUES (p_account_id, v_rank + 1)
    ON CONFLICT ON CONSTRAINT merge_ranks_pkey
    DO UPDATE SET rank = greatest(r.rank, v_rank + 1)
    RETURNING r.rank INTO v_account_rank;
    INSERT INTO billing_data.merged_accounts (id, rank, account_id, account_rank)
    VALUES (p_id, v_rank, p_account_id, v_account_rank);
END
$$;
COMMENT ON FUNCTION billing_data.lead_account_to IS
    'Makes the id of one account lead to another. Helper.';

-- Carries out a merge that was planned, and returns it with its id and time.
-- Locks: none, the caller holds both accounts. Writes: account_merges 1, accounts 2, credits 0..2,
-- merge_ranks 1..2, merged_accounts 1..n, top_ups 0..1, admin_audit_logs 2.
CREATE OR REPLACE FUNCTION billing_data.carry_out_merge(
    p_plan billing_data.account_merges,
    p_merged billing_data.accounts,
    p_account billing_data.accounts,
    p_actor billing_data.actor
) RETURNS billing_data.account_merges
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_merge billing_data.account_merges := p_plan;
BEGIN
    v_merge.id := billing_data.new_id();
    v_merge.created_at := clock_timestamp();
    v_merge.admin_user_id := p_actor.admin_user_id;
    v_merge.database_role := p_actor.database_role;
    -- This comes first, so that no alert says that the merged account is empty.
    UPDATE billing_data.accounts AS a
    SET status = 'merged', updated_at = v_merge.created_at
    WHERE a.id = p_merged.id;
    PERFORM billing_data.append_transfer(
        v_merge.id, p_merged, p_account, v_merge.credits, v_merge.free_uses_taken,
        v_merge.free_uses_given, v_merge.reason, NULL, v_merge.request_fingerprint,
        v_merge.created_at, p_actor
    );
    UPDATE billing_data.accounts AS a
    SET marketing_opt_in = c.marketing_opt_in,
        marketing_opt_in_at = c.marketing_opt_in_at,
        marketing_opt_in_source = c.marketing_opt_in_source,
        marketing_withdrawn_at = c.marketing_withdrawn_at,
        updated_at = v_merge.created_at
    FROM (
        SELECT (n.account).*
        FROM (
            SELECT CASE WHEN v_merge.consent_before IS NULL THEN p_account ELSE p_merged END
        ) AS n (account)
    ) AS c
    WHERE a.id = p_account.id
    RETURNING a.ledger_version INTO STRICT v_merge.ledger_version;
    PERFORM billing_data.lead_account_to(p_merged.id, p_account.id);
    PERFORM billing_data.withdraw_top_ups(ARRAY[p_merged.id], 'merged');
    PERFORM billing_data.move_schedules(p_merged.id, p_account.id, NULL);
    PERFORM billing_data.move_caps(p_merged.id, p_account.id, NULL);
    INSERT INTO billing_data.account_merges (
        id, merged_account_id, account_id, credits, free_uses_taken, free_uses_given,
        balance_after, free_uses_after, consent_before, ledger_version, reason, idempotency_key,
        request_fingerprint, admin_user_id, database_role, created_at
    )
    VALUES (
        v_merge.id, v_merge.merged_account_id, v_merge.account_id, v_merge.credits,
        v_merge.free_uses_taken, v_merge.free_uses_given, v_merge.balance_after,
        v_merge.free_uses_after, v_merge.consent_before, v_merge.ledger_version, v_merge.reason,
        v_merge.idempotency_key, v_merge.request_fingerprint, v_merge.admin_user_id,
        v_merge.database_role, v_merge.created_at
    );
    PERFORM billing_data.write_audit(
        'account.merge', 'account', t.id::text,
        jsonb_build_object(
            'merge_id', v_merge.id, 'merged_account_id', v_merge.merged_account_id,
            'account_id', v_merge.account_id, 'credits', v_merge.credits,
            'free_uses', v_merge.free_uses_given
        ),
        v_merge.reason, p_actor
    )
    FROM (VALUES (p_merged.id), (p_account.id)) AS t (id);
    RETURN v_merge;
END
$$;
COMMENT ON FUNCTION billing_data.carry_out_merge IS
    'Merges two accounts that are locked, as planned. Helper.';

-- The merge that was made under an idempotency key; an empty row when there is none.
-- Errors: idempotency_key_reused.
CREATE OR REPLACE FUNCTION billing_data.find_merge(
    p_account_id uuid, p_idempotency_key text, p_fingerprint bytea
) RETURNS billing_data.account_merges
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_merge billing_data.account_merges;
BEGIN
    SELECT m.* INTO v_merge
    FROM billing_data.account_merges AS m
    WHERE m.merged_account_id = p_account_id AND m.idempotency_key = p_idempotency_key;
    IF billing_data.is_other_request(v_merge.request_fingerprint, p_fingerprint) THEN
        PERFORM billing_data.raise_error('idempotency_key_reused');
    END IF;
    RETURN v_merge;
END
$$;
COMMENT ON FUNCTION billing_data.find_merge IS
    'The merge that was made under an idempotency key. Helper.';

-- Merges p_account_id into p_into_account_id: its paid credits move there by a transfer, free uses
-- up to what one account may have, and its id and identity lead there from then on, for everything.
-- Its own ledger stays as it is. Keys of requests that were made for its identity before are still
-- recognised for this identity. Its regular grants and its caps go with it. Both accounts must be
-- active, so that credits of a suspended or closed one do not become usable unnoticed. The profile
-- of the account that stays is kept; of two consents the newest counts. A top-up of the merged
-- account ends. When the idempotency key was used before for the same merge, nothing is done and
-- replayed is true, even if the merge was undone since. With p_dry_run nothing is written: the
-- answer, or the refusal, is what the same call would give now, without a merge_id.
-- Locks: both accounts, in id order. Writes: account_merges 1, accounts 2, credits 0..2,
-- merged_accounts, merge_ranks, admin_audit_logs 2.
-- Errors: actor errors, invalid_argument, account_not_found, accounts_are_one, account_merged,
-- account_erased, account_not_active, accounts_of_other_currency, balance_overflow,
-- idempotency_key_reused, serialization_failure (one of them was merged at this moment).
-- Example: SELECT * FROM billing.merge_accounts(p_account_id => '...', p_into_account_id => '...',
--     p_reason => 'one person with two sign-ins');
CREATE OR REPLACE FUNCTION billing.merge_accounts(
    p_account_id uuid,
    p_into_account_id uuid,
    p_reason text,
    p_idempotency_key text DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    merge_id uuid,
    merged_account_id uuid,
    account_id uuid,
    credits_moved bigint,
    balance_after bigint,
    free_uses_given bigint,
    free_uses_after bigint,
    takes_consent boolean,
    created_at timestamptz,
    replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_fingerprint bytea;
    v_merge billing_data.account_merges;
    v_accounts billing_data.accounts[];
    v_survivor uuid;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require(p_dry_run IS NOT NULL, 'p_dry_run', 'it must be true or false');
    PERFORM billing_data.require_durable_commit();
    v_fingerprint := billing_data.fingerprint(
        billing_data.field_hash('merge', p_into_account_id::text)
        # billing_data.field_hash('reason', p_reason)
    );
    v_merge := billing_data.find_merge(p_account_id, p_idempotency_key, v_fingerprint);
    replayed := v_merge.id IS NOT NULL;
    IF NOT replayed THEN
        v_survivor := billing_data.surviving_account(p_account_id);
        IF v_survivor <> p_account_id
            AND v_survivor <> billing_data.surviving_account(p_into_account_id)
        THEN
            PERFORM billing_data.raise_error('account_merged', jsonb_build_object(
                'account_id', p_account_id, 'into_account_id', v_survivor
            ));
        END IF;
        v_accounts := billing_data.lock_two_accounts(p_account_id, p_into_account_id);
        v_merge := billing_data.plan_merge(v_accounts[1], v_accounts[2]);
        IF NOT p_dry_run THEN
            v_merge.reason := p_reason;
            v_merge.idempotency_key := p_idempotency_key;
            v_merge.request_fingerprint := v_fingerprint;
            v_merge := billing_data.carry_out_merge(
                v_merge, v_accounts[1], v_accounts[2], v_actor
            );
        END IF;
    END IF;
    merge_id := v_merge.id;
    merged_account_id := v_merge.merged_account_id;
    account_id := v_merge.account_id;
    credits_moved := v_merge.credits;
    balance_after := v_merge.balance_after;
    free_uses_given := v_merge.free_uses_given;
    free_uses_after := v_merge.free_uses_after;
    takes_consent := v_merge.consent_before IS NOT NULL;
    created_at := v_merge.created_at;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.merge_accounts IS
    'Merges one account into another; billing.undo_merge undoes it. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.merge_accounts TO billing_server, billing_dba;

-- Why a merge cannot be undone; NULL when it can.
CREATE OR REPLACE FUNCTION billing_data.undo_problem(p_merge billing_data.account_merges)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN (p_merge).undone_at IS NOT NULL THEN 'it was undone before'
        WHEN a.status = 'merged'
            THEN format('account %s was merged into another one since; undo that first', a.id)
        WHEN a.ledger_version <> (p_merge).ledger_version THEN format(
            'account %s has %s newer ledger rows', a.id,
            a.ledger_version - (p_merge).ledger_version
        )
        WHEN EXISTS (
            SELECT FROM billing_data.purchases AS p
            WHERE p.account_id = a.id AND p.created_at >= (p_merge).created_at
        ) THEN format('a purchase was begun for account %s since', a.id)
        WHEN a.updated_at <> (p_merge).created_at
            THEN format('profile, state or free uses of account %s changed since', a.id)
        WHEN m.updated_at <> (p_merge).created_at
            THEN format('account %s changed since', m.id)
    END
    FROM billing_data.accounts AS a
    CROSS JOIN billing_data.accounts AS m
    WHERE a.id = (p_merge).account_id AND m.id = (p_merge).merged_account_id
$$;
COMMENT ON FUNCTION billing_data.undo_problem IS
    'Why a merge cannot be undone, NULL when it can. Helper.';

-- Locks both accounts of an account's merge and returns the merge; refuses one that cannot be
-- undone.
-- Locks: both accounts, in id order. Errors: account_not_found, account_not_merged, merge_stands.
CREATE OR REPLACE FUNCTION billing_data.lock_merge(p_account_id uuid)
RETURNS billing_data.account_merges
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_merge billing_data.account_merges;
    v_problem text;
BEGIN
    SELECT m.* INTO v_merge
    FROM billing_data.account_merges AS m
    WHERE m.merged_account_id = p_account_id AND m.undone_at IS NULL;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            CASE
                WHEN EXISTS (
                    SELECT FROM billing_data.accounts AS a WHERE a.id = p_account_id
                ) THEN 'account_not_merged'
                WHEN billing_data.surviving_account(p_account_id) <> p_account_id
                    THEN 'merge_stands'
                ELSE 'account_not_found'
            END,
            jsonb_strip_nulls(jsonb_build_object(
                'account_id', p_account_id,
                'problem', CASE
                    WHEN billing_data.surviving_account(p_account_id) <> p_account_id
                        THEN 'it was made when the old service''s database was taken over'
                END
            ))
        );
    END IF;
    PERFORM billing_data.lock_accounts(
        ARRAY[
            least(v_merge.merged_account_id, v_merge.account_id),
            greatest(v_merge.merged_account_id, v_merge.account_id)
        ],
        p_wait => true
    );
    SELECT m.* INTO STRICT v_merge
    FROM billing_data.account_merges AS m
    WHERE m.id = v_merge.id;
    IF v_merge.undone_at IS NOT NULL THEN
        PERFORM billing_data.raise_merged_meanwhile();
    END IF;
    v_problem := billing_data.undo_problem(v_merge);
    IF v_problem IS NOT NULL THEN
        PERFORM billing_data.raise_error(
            'merge_stands', jsonb_build_object('problem', v_problem)
        );
    END IF;
    RETURN v_merge;
END
$$;
COMMENT ON FUNCTION billing_data.lock_merge IS
    'Locks the accounts of a merge that can be undone. Helper.';

-- Undoes a merge, and returns it with the undo's id and time.
-- Locks: none, the caller holds both accounts. Writes: as billing.undo_merge.
CREATE OR REPLACE FUNCTION billing_data.carry_out_undo(
    p_merge billing_data.account_merges, p_actor billing_data.actor
) RETURNS billing_data.account_merges
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_merge billing_data.account_merges := p_merge;
    v_merged billing_data.accounts;
    v_account billing_data.accounts;
    v_family uuid[];
BEGIN
    v_merge.undo_id := billing_data.new_id();
    v_merge.undone_at := clock_timestamp();
    SELECT a.* INTO STRICT v_merged
    FROM billing_data.accounts AS a
    WHERE a.id = v_merge.merged_account_id;
    SELECT a.* INTO STRICT v_account
    FROM billing_data.accounts AS a
    WHERE a.id = v_merge.account_id;
    PERFORM billing_data.append_transfer(
        v_merge.undo_id, v_account, v_merged, v_merge.credits, v_merge.free_uses_given,
        v_merge.free_uses_taken, v_merge.undo_reason, NULL, v_merge.request_fingerprint,
        v_merge.undone_at, p_actor,
        (
            SELECT c.id
            FROM billing_data.credits AS c
            WHERE c.account_id = v_account.id AND c.transfer_id = v_merge.id
        )
    );
    DELETE FROM billing_data.merged_accounts AS m WHERE m.id = v_merged.id;
    v_family := billing_data.merged_family(v_merged.id);
    PERFORM billing_data.move_schedules(v_account.id, v_merged.id, v_family);
    PERFORM billing_data.move_caps(v_account.id, v_merged.id, v_family);
    UPDATE billing_data.accounts AS a
    SET status = 'active', updated_at = v_merge.undone_at
    WHERE a.id = v_merged.id;
    UPDATE billing_data.accounts AS a
    SET marketing_opt_in = c.marketing_opt_in,
        marketing_opt_in_at = c.marketing_opt_in_at,
        marketing_opt_in_source = c.marketing_opt_in_source,
        marketing_withdrawn_at = c.marketing_withdrawn_at,
        updated_at = v_merge.undone_at
    FROM jsonb_populate_record(v_account, coalesce(v_merge.consent_before, '{}')) AS c
    WHERE a.id = v_account.id;
    UPDATE billing_data.account_merges AS m
    SET undo_id = v_merge.undo_id,
        undo_reason = v_merge.undo_reason,
        undo_key = v_merge.undo_key,
        undone_at = v_merge.undone_at
    WHERE m.id = v_merge.id;
    PERFORM billing_data.write_audit(
        'account.undo_merge', 'account', t.id::text,
        jsonb_build_object(
            'merge_id', v_merge.id, 'undo_id', v_merge.undo_id,
            'merged_account_id', v_merged.id, 'account_id', v_account.id,
            'credits', v_merge.credits, 'free_uses', v_merge.free_uses_taken
        ),
        v_merge.undo_reason, p_actor
    )
    FROM (VALUES (v_merged.id), (v_account.id)) AS t (id);
    RETURN v_merge;
END
$$;
COMMENT ON FUNCTION billing_data.carry_out_undo IS
    'Undoes a merge whose accounts are locked. Helper.';

-- Undoes the merge of an account, as long as the account that it was merged into has not changed
-- since: credits, free uses and consent are as before, and id and identity lead to the account
-- itself again. p_account_id is the account that was merged. When the idempotency key was used
-- before for this account, nothing is done and replayed is true; with another reason it is another
-- request. With p_dry_run nothing is written: the answer, or the refusal, is what the same call
-- would give now, without an undo_id.
-- Locks: both accounts, in id order. Writes: account_merges 1, accounts 2, credits 0..2,
-- merged_accounts 1, admin_audit_logs 2. Errors: actor errors, invalid_argument,
-- account_not_found, account_not_merged, merge_stands (it says why), idempotency_key_reused.
-- Example: SELECT * FROM billing.undo_merge(p_account_id => '...', p_reason => 'two people');
CREATE OR REPLACE FUNCTION billing.undo_merge(
    p_account_id uuid,
    p_reason text,
    p_idempotency_key text DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    undo_id uuid,
    merge_id uuid,
    merged_account_id uuid,
    account_id uuid,
    credits_moved_back bigint,
    free_uses_given_back bigint,
    undone_at timestamptz,
    replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_merge billing_data.account_merges;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require(p_dry_run IS NOT NULL, 'p_dry_run', 'it must be true or false');
    PERFORM billing_data.require_durable_commit();
    SELECT m.* INTO v_merge
    FROM billing_data.account_merges AS m
    WHERE m.merged_account_id = p_account_id AND m.undo_key = p_idempotency_key;
    replayed := FOUND;
    IF v_merge.undo_reason <> p_reason THEN
        PERFORM billing_data.raise_error('idempotency_key_reused');
    END IF;
    IF NOT replayed THEN
        v_merge := billing_data.lock_merge(p_account_id);
        IF NOT p_dry_run THEN
            v_merge.undo_reason := p_reason;
            v_merge.undo_key := p_idempotency_key;
            v_merge := billing_data.carry_out_undo(v_merge, v_actor);
        END IF;
    END IF;
    undo_id := v_merge.undo_id;
    merge_id := v_merge.id;
    merged_account_id := v_merge.merged_account_id;
    account_id := v_merge.account_id;
    credits_moved_back := v_merge.credits;
    free_uses_given_back := v_merge.free_uses_taken;
    undone_at := v_merge.undone_at;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.undo_merge IS
    'Undoes a merge while nothing has changed since. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.undo_merge TO billing_server, billing_dba;

-- The merges of an account and of all that are merged with it, also those that were undone, newest
-- first. p_account_id may be any of these accounts. problem says why a merge cannot be undone; it
-- is NULL when it can.
-- Errors: actor errors.
-- Example: SELECT * FROM billing.list_merges(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.list_merges(
    p_account_id uuid,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    merge_id uuid,
    merged_account_id uuid,
    oauth_provider text,
    external_id text,
    customer_email text,
    account_id uuid,
    credits_moved bigint,
    free_uses_given bigint,
    reason text,
    who text,
    created_at timestamptz,
    undone_at timestamptz,
    undo_reason text,
    problem text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_family uuid[] := billing_data.merged_family(billing_data.surviving_account(p_account_id));
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        m.id, m.merged_account_id, a.oauth_provider::text, a.external_id::text,
        a.customer_email::text, m.account_id, m.credits, m.free_uses_given, m.reason,
        coalesce(u.email::text, m.database_role), m.created_at, m.undone_at, m.undo_reason,
        billing_data.undo_problem(m)
    FROM billing_data.account_merges AS m
    INNER JOIN billing_data.accounts AS a ON a.id = m.merged_account_id
    LEFT JOIN billing_data.admin_users AS u ON u.id = m.admin_user_id
    WHERE m.account_id = ANY (v_family) OR m.merged_account_id = ANY (v_family)
    ORDER BY m.created_at DESC, m.id DESC;
END
$$;
COMMENT ON FUNCTION billing.list_merges IS
    'Lists the merges of an account, newest first. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_merges TO billing_server, billing_dba;
