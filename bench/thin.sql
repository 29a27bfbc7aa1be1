-- What the service is compared with: the least that does the job. An account's row is locked, the
-- charge is decided, one row is written for it, and one row for every check. There are no
-- fingerprints, actors, ledger versions or digests, and no SECURITY DEFINER; currency and status
-- have no rules. It is in a schema of its own beside the service's, with as many rows.

CREATE SCHEMA thin;
GRANT USAGE ON SCHEMA thin TO PUBLIC;

CREATE TABLE thin.accounts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    oauth_provider text NOT NULL,
    external_id text NOT NULL,
    status text NOT NULL DEFAULT 'active',
    plan_name text NOT NULL DEFAULT 'free',
    currency text NOT NULL DEFAULT 'USD',
    paid_credits bigint NOT NULL CHECK (paid_credits >= 0),
    free_uses_remaining bigint NOT NULL CHECK (free_uses_remaining >= 0),
    total_uses bigint NOT NULL DEFAULT 0,
    credits_given bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (oauth_provider, external_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE thin.charges (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id bigint NOT NULL REFERENCES thin.accounts,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    balance_before bigint NOT NULL,
    balance_after bigint NOT NULL,
    used_free boolean NOT NULL,
    description text NOT NULL,
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, idempotency_key)
);

CREATE TABLE thin.credit_checks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL,
    has_credit boolean NOT NULL,
    paid_credits bigint NOT NULL,
    free_uses_remaining bigint NOT NULL,
    denial_reason text,
    created_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA thin TO PUBLIC;

CREATE TYPE thin.charged AS (
    outcome text, charge_id uuid, account_id bigint, balance_after bigint, created_at timestamptz
);
CREATE TYPE thin.checked AS (
    outcome text, has_credit boolean, paid_credits bigint, plan_name text,
    free_uses_remaining bigint, total_uses bigint
);

-- One charge: a free use if there is one left, otherwise credits. The account's lock comes first,
-- so that the INSERT detects a key that was used already.
CREATE FUNCTION thin.charge(
    p_oauth_provider text, p_external_id text, p_amount bigint, p_description text, p_key text
)
RETURNS thin.charged LANGUAGE plpgsql AS $$
DECLARE
    v_account thin.accounts;
    v_charged thin.charged;
    v_free boolean;
    v_after bigint;
BEGIN
    SELECT * INTO v_account FROM thin.accounts
    WHERE oauth_provider = p_oauth_provider AND external_id = p_external_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        v_charged.outcome := 'not_found';
        RETURN v_charged;
    END IF;
    v_charged.account_id := v_account.id;
    v_free := v_account.free_uses_remaining > 0;
    v_after := CASE WHEN v_free THEN v_account.paid_credits
        ELSE v_account.paid_credits - p_amount END;
    IF v_account.status <> 'active' OR v_after < 0 THEN
        -- A charge that exists already is reported even for an account that has nothing left.
        SELECT 'duplicate', c.id, c.balance_after, c.created_at
        INTO v_charged.outcome, v_charged.charge_id, v_charged.balance_after, v_charged.created_at
        FROM thin.charges AS c
        WHERE c.account_id = v_account.id AND c.idempotency_key = p_key;
        IF NOT FOUND THEN
            v_charged.outcome := CASE v_account.status
                WHEN 'active' THEN 'insufficient' ELSE 'not_active' END;
        END IF;
        RETURN v_charged;
    END IF;
    INSERT INTO thin.charges AS c (account_id, amount_minor, currency, balance_before,
        balance_after, used_free, description, idempotency_key)
    VALUES (v_account.id, p_amount, v_account.currency, v_account.paid_credits, v_after, v_free,
        p_description, p_key)
    ON CONFLICT (account_id, idempotency_key) DO NOTHING
    RETURNING 'created', c.id, c.account_id, c.balance_after, c.created_at INTO v_charged;
    IF NOT FOUND THEN
        SELECT 'duplicate', c.id, c.account_id, c.balance_after, c.created_at INTO v_charged
        FROM thin.charges AS c
        WHERE c.account_id = v_account.id AND c.idempotency_key = p_key;
        RETURN v_charged;
    END IF;
    UPDATE thin.accounts
    SET paid_credits = v_after, free_uses_remaining = free_uses_remaining - v_free::int,
        total_uses = total_uses + 1, updated_at = now()
    WHERE id = v_account.id;
    RETURN v_charged;
END
$$;

-- Charges that arrived together. Accounts are locked in the order of their ids. The rest is a
-- statement of its own, so that its snapshot is taken after the locks. Accounts with plain charges
-- only are decided as a set, with running totals in the order of arrival; the charges of the others
-- one by one.
CREATE FUNCTION thin.charge_batch(
    p_providers text[], p_external_ids text[], p_amounts bigint[], p_descriptions text[],
    p_keys text[]
)
RETURNS SETOF thin.charged LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM thin.accounts AS a
    INNER JOIN (
        SELECT DISTINCT u.provider, u.external_id
        FROM unnest(p_providers, p_external_ids) AS u (provider, external_id)
    ) AS d ON a.oauth_provider = d.provider AND a.external_id = d.external_id
    ORDER BY a.id FOR NO KEY UPDATE OF a;
    RETURN QUERY
    WITH items AS MATERIALIZED (
        SELECT u.*, a.id AS account_id, a.currency, a.paid_credits, gen_random_uuid() AS charge_id,
            row_number() OVER (PARTITION BY a.id ORDER BY u.number) <= a.free_uses_remaining
                AS is_free,
            a.status = 'active' AND NOT EXISTS (
                SELECT FROM thin.charges AS c
                WHERE c.account_id = a.id AND c.idempotency_key = u.key
            ) AND (u.key IS NULL OR row_number()
                OVER (PARTITION BY a.id, u.key ORDER BY u.number) = 1) AS is_plain
        FROM unnest(p_providers, p_external_ids, p_amounts, p_descriptions, p_keys)
            WITH ORDINALITY AS u (provider, external_id, amount, description, key, number)
        LEFT JOIN thin.accounts AS a
            ON a.oauth_provider = u.provider AND a.external_id = u.external_id
    ), priced AS MATERIALIZED (
        SELECT i.*, p.price,
            i.paid_credits
                - (sum(p.price) OVER (PARTITION BY i.account_id ORDER BY i.number))::bigint
                AS balance_after
        FROM items AS i
        CROSS JOIN LATERAL (SELECT CASE WHEN i.is_free THEN 0 ELSE i.amount END AS price) AS p
        WHERE i.account_id IS NOT NULL
    ), plain AS MATERIALIZED (
        SELECT p.account_id, min(p.balance_after) AS paid_credits, count(*) AS uses,
            count(*) FILTER (WHERE p.is_free) AS free_uses
        FROM priced AS p
        GROUP BY p.account_id
        HAVING bool_and(p.is_plain) AND min(p.balance_after) >= 0
    ), updated AS (
        UPDATE thin.accounts AS a
        SET paid_credits = p.paid_credits, total_uses = a.total_uses + p.uses,
            free_uses_remaining = a.free_uses_remaining - p.free_uses, updated_at = now()
        FROM plain AS p WHERE a.id = p.account_id
    ), inserted AS (
        INSERT INTO thin.charges (id, account_id, amount_minor, currency, balance_before,
            balance_after, used_free, description, idempotency_key)
        SELECT p.charge_id, p.account_id, p.amount, p.currency, p.balance_after + p.price,
            p.balance_after, p.is_free, p.description, p.key
        FROM priced AS p INNER JOIN plain USING (account_id)
    )
    SELECT done.*
    FROM items AS i
    LEFT JOIN priced AS p ON p.number = i.number
    LEFT JOIN plain AS g ON g.account_id = p.account_id
    CROSS JOIN LATERAL (
        SELECT 'created', i.charge_id, i.account_id, p.balance_after, now()
        WHERE g.account_id IS NOT NULL
        UNION ALL
        SELECT c.* FROM thin.charge(i.provider, i.external_id, i.amount, i.description, i.key) AS c
        WHERE g.account_id IS NULL
    ) AS done
    ORDER BY i.number;
END
$$;

-- A check and its audit row; the answer does not wait for the row to be durable.
CREATE FUNCTION thin.check_credit(p_oauth_provider text, p_external_id text)
RETURNS thin.checked LANGUAGE plpgsql AS $$
DECLARE
    v_account thin.accounts;
    v_has_credit boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO v_account FROM thin.accounts
    WHERE oauth_provider = p_oauth_provider AND external_id = p_external_id;
    IF NOT FOUND THEN
        RETURN ROW('not_found', false, NULL, NULL, NULL, NULL)::thin.checked;
    END IF;
    v_has_credit := v_account.status = 'active'
        AND (v_account.free_uses_remaining > 0 OR v_account.paid_credits > 0);
    INSERT INTO thin.credit_checks (account_id, has_credit, paid_credits, free_uses_remaining,
        denial_reason)
    VALUES (v_account.id, v_has_credit, v_account.paid_credits, v_account.free_uses_remaining,
        CASE WHEN NOT v_has_credit THEN 'no credit' END);
    RETURN ROW('checked', v_has_credit, v_account.paid_credits, v_account.plan_name,
        v_account.free_uses_remaining, v_account.total_uses)::thin.checked;
END
$$;

-- Checks that arrived together, in their order.
CREATE FUNCTION thin.check_batch(p_providers text[], p_external_ids text[])
RETURNS SETOF thin.checked LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN QUERY
    WITH items AS MATERIALIZED (
        SELECT u.number, a.id, a.paid_credits, a.plan_name, a.free_uses_remaining, a.total_uses,
            a.status = 'active' AND (a.free_uses_remaining > 0 OR a.paid_credits > 0) AS has_credit
        FROM unnest(p_providers, p_external_ids)
            WITH ORDINALITY AS u (provider, external_id, number)
        LEFT JOIN thin.accounts AS a
            ON a.oauth_provider = u.provider AND a.external_id = u.external_id
    ), inserted AS (
        INSERT INTO thin.credit_checks (account_id, has_credit, paid_credits, free_uses_remaining,
            denial_reason)
        SELECT i.id, i.has_credit, i.paid_credits, i.free_uses_remaining,
            CASE WHEN NOT i.has_credit THEN 'no credit' END
        FROM items AS i WHERE i.id IS NOT NULL
    )
    SELECT
        CASE WHEN i.id IS NULL THEN 'not_found' ELSE 'checked' END, coalesce(i.has_credit, false),
        i.paid_credits, i.plan_name, i.free_uses_remaining, i.total_uses
    FROM items AS i
    ORDER BY i.number;
END
$$;

-- Accounts whose balances do not follow from their charges.
CREATE FUNCTION thin.wrong_accounts() RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    SELECT a.id
    FROM thin.accounts AS a
    LEFT JOIN (
        SELECT c.account_id, count(*) AS uses, min(c.balance_after) AS balance,
            sum(c.balance_before - c.balance_after) AS paid,
            count(DISTINCT c.balance_after) FILTER (WHERE NOT c.used_free) AS balances,
            count(*) FILTER (WHERE NOT c.used_free) AS paid_uses,
            bool_and(c.balance_before - c.balance_after
                = CASE WHEN c.used_free THEN 0 ELSE c.amount_minor END) AS chained
        FROM thin.charges AS c
        GROUP BY c.account_id
    ) AS c ON c.account_id = a.id
    WHERE a.total_uses <> coalesce(c.uses, 0)
        OR a.paid_credits <> a.credits_given - coalesce(c.paid, 0)
        OR c.balance <> a.paid_credits
        OR c.balances <> c.paid_uses
        OR NOT c.chained
$$;
