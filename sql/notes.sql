-- Notes: what staff want to remember about an account. They are no part of the books.

-- Writes a note on an account. The audit log says that it was written, and not what.
-- Locks: none. Writes: account_notes 1, admin_audit_logs 1. Errors: actor errors, invalid_argument,
-- account_not_found, account_erased.
-- Example: SELECT * FROM billing.add_note(p_account_id => '...', p_note => 'prefers letters');
CREATE OR REPLACE FUNCTION billing.add_note(
    p_account_id uuid,
    p_note text,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (note_id uuid, account_id uuid, created_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
BEGIN
    PERFORM billing_data.require(p_note ~ '[^[:space:]]', 'p_note', 'a note has words');
    PERFORM billing_data.require_short(p_note, 'p_note');
    -- With the account locked, an erasing that is under way comes either before or after this note.
    account_id := (billing_data.lock_account(p_account_id)).id;
    IF account_id IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM billing_data.refuse_erased(account_id);
    note_id := billing_data.new_id();
    created_at := clock_timestamp();
    INSERT INTO billing_data.account_notes (
        id, account_id, note, admin_user_id, database_role, created_at
    )
    VALUES (
        note_id, add_note.account_id, p_note, v_actor.admin_user_id, v_actor.database_role,
        add_note.created_at
    );
    PERFORM billing_data.write_audit(
        'account.add_note', 'account', account_id::text, jsonb_build_object('note_id', note_id),
        NULL, v_actor
    );
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.add_note IS
    'Writes a note on an account. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.add_note TO billing_server, billing_dba;

-- Removes a note. The audit log says who removed whose note, and not what it said. changed is false
-- when there is no such note any more.
-- Locks: the note. Writes: account_notes 0..1, admin_audit_logs 0..1. Errors: actor errors.
-- Example: SELECT * FROM billing.remove_note(p_note_id => '...');
CREATE OR REPLACE FUNCTION billing.remove_note(
    p_note_id uuid,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (account_id uuid, changed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the time in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_note record;
BEGIN
    DELETE FROM billing_data.account_notes AS n
    WHERE n.id = p_note_id
    RETURNING n.account_id, n.admin_user_id, n.database_role, n.created_at INTO v_note;
    changed := FOUND;
    IF changed THEN
        account_id := v_note.account_id;
        PERFORM billing_data.write_audit(
            'account.remove_note', 'account', account_id::text,
            jsonb_strip_nulls(jsonb_build_object(
                'note_id', p_note_id, 'written_at', v_note.created_at,
                'admin_user_id', v_note.admin_user_id, 'database_role', v_note.database_role
            )),
            NULL, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.remove_note IS
    'Removes a note on an account. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.remove_note TO billing_server, billing_dba;

-- The notes on an account and on those that were merged into it, newest first, with who wrote them.
-- Errors: actor errors, account_not_found.
-- Example: SELECT * FROM billing.list_notes(billing.find_account('oauth:google:1'));
CREATE OR REPLACE FUNCTION billing.list_notes(
    p_account_id uuid,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (note_id uuid, account_id uuid, created_at timestamptz, who text, note text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        n.id, n.account_id, n.created_at,
        billing_data.writer_name(NULL, NULL, u.email, NULL, n.database_role), n.note
    FROM billing_data.account_notes AS n
    LEFT JOIN billing_data.admin_users AS u ON u.id = n.admin_user_id
    WHERE n.account_id = ANY (
        billing_data.merged_family((billing_data.require_account(p_account_id)).id)
    )
    ORDER BY n.created_at DESC, n.id DESC;
END
$$;
COMMENT ON FUNCTION billing.list_notes IS
    'Lists the notes on an account. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_notes TO billing_server, billing_dba;
