-- What is sealed of a ledger entry: its leaf, a SHA-256 of all its columns. Absent columns are left
-- out, so that a column that a later release adds does not change the leaves of entries that do not
-- have it. The personal columns count as one salted digest, so that a person can be erased and the
-- leaf stays what it was.

-- One column of a leaf: its name, the length of its value and the value; nothing for NULL.
CREATE OR REPLACE FUNCTION billing_data.leaf_part(p_name bytea, p_value bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(p_name || int4send(length(p_value)) || p_value, ''::bytea);
COMMENT ON FUNCTION billing_data.leaf_part IS 'One column of what is sealed of an entry. Helper.';

CREATE OR REPLACE FUNCTION billing_data.leaf_text(p_name bytea, p_value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN billing_data.leaf_part(p_name, convert_to(p_value, 'UTF8'));
COMMENT ON FUNCTION billing_data.leaf_text IS
    'One column of text of what is sealed of an entry. Helper.';

-- The digest of a charge's personal columns. The digest of the row and the fingerprint of the
-- request are made from the others, so they count as personal.
CREATE OR REPLACE FUNCTION billing_data.charge_personal_digest(
    p_charge billing_data.charges, p_salt bytea
) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(
    p_salt
    || billing_data.leaf_text('description', (p_charge).description)
    || billing_data.leaf_text('idempotency_key', (p_charge).idempotency_key)
    || billing_data.leaf_text('metadata_message_id', (p_charge).metadata_message_id)
    || billing_data.leaf_text('metadata_agent_id', (p_charge).metadata_agent_id)
    || billing_data.leaf_text('metadata_channel_id', (p_charge).metadata_channel_id)
    || billing_data.leaf_text('metadata_request_id', (p_charge).metadata_request_id)
    || billing_data.leaf_part('request_fingerprint', (p_charge).request_fingerprint)
    || billing_data.leaf_part('digest', int8send((p_charge).digest))
);
COMMENT ON FUNCTION billing_data.charge_personal_digest IS
    'The salted digest of a charge''s personal columns. Helper.';

CREATE OR REPLACE FUNCTION billing_data.charge_leaf(
    p_charge billing_data.charges, p_personal_digest bytea
) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(
    'charge'::bytea
    || uuid_send((p_charge).id) || uuid_send((p_charge).account_id)
    || int8send((p_charge).ledger_version) || timestamptz_send((p_charge).created_at)
    || int8send((p_charge).amount_minor) || int8send((p_charge).balance_before)
    || int8send((p_charge).balance_after)
    || billing_data.leaf_text('currency', (p_charge).currency)
    || billing_data.leaf_text('paid_with', (p_charge).paid_with)
    || billing_data.leaf_part('free_uses_after', int8send((p_charge).free_uses_after))
    || billing_data.leaf_part('api_key_id', uuid_send((p_charge).api_key_id))
    || billing_data.leaf_part('admin_user_id', uuid_send((p_charge).admin_user_id))
    || billing_data.leaf_text('database_role', (p_charge).database_role)
    || p_personal_digest
);
COMMENT ON FUNCTION billing_data.charge_leaf IS 'What is sealed of a charge. Helper.';

-- The provider's ids in a credit that a payment made are not personal: they prove that the payment
-- took effect once, and stay for as long as the books do.
CREATE OR REPLACE FUNCTION billing_data.credit_personal_digest(
    p_credit billing_data.credits, p_salt bytea
) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(
    p_salt
    || billing_data.leaf_text('description', (p_credit).description)
    || CASE
        WHEN billing_data.is_of_payment(
            (p_credit).payment_provider, (p_credit).request_fingerprint, (p_credit).digest
        )
            THEN ''::bytea
        ELSE billing_data.leaf_text('idempotency_key', (p_credit).idempotency_key)
            || billing_data.leaf_text(
                'external_transaction_id', (p_credit).external_transaction_id
            )
    END
    || billing_data.leaf_part('request_fingerprint', (p_credit).request_fingerprint)
    || billing_data.leaf_part('digest', int8send((p_credit).digest))
);
COMMENT ON FUNCTION billing_data.credit_personal_digest IS
    'The salted digest of a credit''s personal columns. Helper.';

CREATE OR REPLACE FUNCTION billing_data.credit_leaf(
    p_credit billing_data.credits, p_personal_digest bytea
) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(
    'credit'::bytea
    || uuid_send((p_credit).id) || uuid_send((p_credit).account_id)
    || int8send((p_credit).ledger_version) || timestamptz_send((p_credit).created_at)
    || int8send((p_credit).amount_minor) || int8send((p_credit).balance_before)
    || int8send((p_credit).balance_after)
    || billing_data.leaf_text('currency', (p_credit).currency)
    || billing_data.leaf_text('transaction_type', (p_credit).transaction_type)
    || billing_data.leaf_part('api_key_id', uuid_send((p_credit).api_key_id))
    || billing_data.leaf_part('admin_user_id', uuid_send((p_credit).admin_user_id))
    || billing_data.leaf_text('database_role', (p_credit).database_role)
    || billing_data.leaf_text('payment_provider', (p_credit).payment_provider)
    || billing_data.leaf_part('corrects_charge_id', uuid_send((p_credit).corrects_charge_id))
    || billing_data.leaf_part('corrects_credit_id', uuid_send((p_credit).corrects_credit_id))
    || billing_data.leaf_part('transfer_id', uuid_send((p_credit).transfer_id))
    || billing_data.leaf_part('free_uses', int8send((p_credit).free_uses))
    || CASE
        WHEN billing_data.is_of_payment(
            (p_credit).payment_provider, (p_credit).request_fingerprint, (p_credit).digest
        )
            THEN billing_data.leaf_text('idempotency_key', (p_credit).idempotency_key)
            || billing_data.leaf_text(
                'external_transaction_id', (p_credit).external_transaction_id
            )
        ELSE ''::bytea
    END
    || p_personal_digest
);
COMMENT ON FUNCTION billing_data.credit_leaf IS 'What is sealed of a credit. Helper.';

-- The erased form of a charge: what its row becomes when the person is erased. An empty fingerprint
-- stays in place of the request's, because an entry without one looks like the old service's.
CREATE OR REPLACE FUNCTION billing_data.erased_charge(p_charge billing_data.charges)
RETURNS billing_data.charges
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    p_charge.description := 'erased';
    p_charge.idempotency_key := NULL;
    p_charge.metadata_message_id := NULL;
    p_charge.metadata_agent_id := NULL;
    p_charge.metadata_channel_id := NULL;
    p_charge.metadata_request_id := NULL;
    IF p_charge.request_fingerprint IS NOT NULL THEN
        p_charge.request_fingerprint := billing_data.fingerprint(0);
    END IF;
    IF p_charge.digest IS NOT NULL THEN
        p_charge.digest := billing_data.charge_digest(p_charge);
    END IF;
    RETURN p_charge;
END
$$;
COMMENT ON FUNCTION billing_data.erased_charge IS
    'What a charge''s row becomes when the person is erased. Helper.';

CREATE OR REPLACE FUNCTION billing_data.erased_credit(p_credit billing_data.credits)
RETURNS billing_data.credits
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    p_credit.description := 'erased';
    IF NOT billing_data.is_of_payment(
        p_credit.payment_provider, p_credit.request_fingerprint, p_credit.digest
    ) THEN
        p_credit.idempotency_key := NULL;
        p_credit.external_transaction_id := NULL;
    END IF;
    IF p_credit.request_fingerprint IS NOT NULL THEN
        p_credit.request_fingerprint := billing_data.fingerprint(0);
    END IF;
    IF p_credit.digest IS NOT NULL THEN
        p_credit.digest := billing_data.credit_digest(p_credit);
    END IF;
    RETURN p_credit;
END
$$;
COMMENT ON FUNCTION billing_data.erased_credit IS
    'What a credit''s row becomes when the person is erased. Helper.';

-- Erases the personal columns of an account's entries and returns how many entries it erased. What
-- was sealed of them can still be computed afterwards, from the digests that it leaves; nothing
-- else can, because it deletes the account's salt. Entries that were erased before are left alone.
-- Locks: the account. Writes: erased_entries, charges and credits 1 per entry; seal_salts -1. The
-- caller writes the audit row.
CREATE OR REPLACE FUNCTION billing_data.erase_entries(p_account_id uuid) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_salt bytea;
    v_erased bigint;
BEGIN
    PERFORM FROM billing_data.accounts AS a WHERE a.id = p_account_id FOR NO KEY UPDATE;
    INSERT INTO billing_data.seal_salts (account_id) VALUES (p_account_id)
    ON CONFLICT ON CONSTRAINT seal_salts_pkey DO NOTHING;
    SELECT s.salt INTO STRICT v_salt
    FROM billing_data.seal_salts AS s
    WHERE s.account_id = p_account_id;
    INSERT INTO billing_data.erased_entries AS e (
        account_id, ledger_version, personal_digest, erased_at
    )
    SELECT p_account_id, n.ledger_version, n.personal_digest, v_now
    FROM (
        SELECT c.ledger_version, billing_data.charge_personal_digest(c, v_salt) AS personal_digest
        FROM billing_data.charges AS c
        WHERE c.account_id = p_account_id AND c.ledger_version > 0
        UNION ALL
        SELECT c.ledger_version, billing_data.credit_personal_digest(c, v_salt)
        FROM billing_data.credits AS c
        WHERE c.account_id = p_account_id AND c.ledger_version > 0
    ) AS n
    ON CONFLICT ON CONSTRAINT erased_entries_pkey DO NOTHING;
    GET DIAGNOSTICS v_erased = ROW_COUNT;
    UPDATE billing_data.charges AS c
    SET
        description = f.description, idempotency_key = f.idempotency_key,
        metadata_message_id = f.metadata_message_id, metadata_agent_id = f.metadata_agent_id,
        metadata_channel_id = f.metadata_channel_id, metadata_request_id = f.metadata_request_id,
        request_fingerprint = f.request_fingerprint, digest = f.digest
    FROM billing_data.erased_entries AS e, billing_data.charges AS o
    CROSS JOIN LATERAL billing_data.erased_charge(o) AS f
    WHERE e.account_id = p_account_id
        AND e.erased_at = v_now
        AND o.account_id = e.account_id
        AND o.ledger_version = e.ledger_version
        AND o.ledger_version > 0
        AND c.id = o.id;
    UPDATE billing_data.credits AS c
    SET
        description = f.description, idempotency_key = f.idempotency_key,
        external_transaction_id = f.external_transaction_id,
        request_fingerprint = f.request_fingerprint, digest = f.digest
    FROM billing_data.erased_entries AS e, billing_data.credits AS o
    CROSS JOIN LATERAL billing_data.erased_credit(o) AS f
    WHERE e.account_id = p_account_id
        AND e.erased_at = v_now
        AND o.account_id = e.account_id
        AND o.ledger_version = e.ledger_version
        AND o.ledger_version > 0
        AND c.id = o.id;
    DELETE FROM billing_data.seal_salts AS s WHERE s.account_id = p_account_id;
    RETURN v_erased;
END
$$;
COMMENT ON FUNCTION billing_data.erase_entries IS
    'Erases the personal columns of an account''s entries and keeps their seals sound. Helper.';
