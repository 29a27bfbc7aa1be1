-- What a person should look at: what it is, how many rows have it, and the first ten of them.
SELECT f.what, count(*), (array_agg(f.example ORDER BY f.example))[1:10]
FROM (
    SELECT
        'accounts of one identity had several states, and the strictest holds' AS what,
        g.account_id::text AS example
    FROM adopt_groups AS g
    WHERE g.had_several_states
    UNION ALL
    SELECT
        'accounts of one identity had several currencies, and the oldest account''s holds',
        g.account_id::text
    FROM adopt_groups AS g
    WHERE g.had_several_currencies
    UNION ALL
    SELECT
        'a currency that does not consist of three letters, as those of Stripe do', a.currency::text
    FROM public.accounts AS a
    WHERE a.currency !~ '^[A-Za-z]{3}$'
    UNION ALL
    SELECT
        'administrators who never signed in: invite each by `ciris-billing admins invite`',
        u.email::text
    FROM public.admin_users AS u
    WHERE u.role = 'admin' AND u.is_active AND u.google_id IS NULL
    UNION ALL
    SELECT
        'API keys with permissions that allow nothing here', k.key_prefix::text
    FROM public.api_keys AS k
    WHERE k.status <> 'revoked'
        AND NOT k.permissions && ARRAY['billing:read', 'billing:write']::varchar[]
    UNION ALL
    SELECT
        'payments that were credited more than once', c.external_transaction_id::text
    FROM public.credits AS c
    WHERE starts_with(c.external_transaction_id, 'pi_')
    GROUP BY c.external_transaction_id
    HAVING count(*) > 1
) AS f
GROUP BY f.what
ORDER BY f.what
