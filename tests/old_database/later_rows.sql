-- Rows of the later revisions, in sections that begin with a line which names the revision. They
-- run after rows.sql and use its plan.
-- revision 2025_11_25_0009
INSERT INTO public.google_play_purchases (
    account_id, purchase_token, order_id, product_id, package_name, purchase_time_millis,
    purchase_state, credits_added
)
SELECT
    c.account_id, 'token-of-a-purchase-' || c.id, c.external_transaction_id, 'credits_100',
    'ai.ciris.mobile', extract(EPOCH FROM c.created_at)::bigint * 1000, 0, c.amount_minor
FROM public.credits AS c
INNER JOIN old_plan AS p ON p.id = c.account_id
-- Class 71: a verification that stopped halfway; its credit has no purchase.
WHERE p.class = 70 AND starts_with(c.external_transaction_id, 'GPA.');
INSERT INTO public.provider_configs (id, provider_type, is_active, config_data)
VALUES (
    pg_temp.old_id('provider', 2), 'google_play', true,
    jsonb_build_object(
        'service_account_json', jsonb_build_object(
            'private_key', 'PRIVATE ' || md5('play' || current_setting('old.seed'))
        ),
        'package_name', 'ai.ciris.mobile'
    )
);
-- revision 2025_11_25_0010
INSERT INTO public.llm_usage_logs (
    id, account_id, interaction_id, total_llm_calls, total_prompt_tokens, total_completion_tokens,
    models_used, actual_cost_cents, duration_ms
)
SELECT
    pg_temp.old_id('usage', p.number), p.id, 'interaction-' || p.number / 2, 1, 1000, 50,
    '{some-model}', 0, 1500
FROM old_plan AS p
WHERE p.number % 10 = 0;
-- revision 2025_11_29_0011
UPDATE public.accounts AS a
SET daily_free_uses_remaining = 1, daily_free_uses_reset_at = now(), daily_free_uses_limit = 3
FROM old_plan AS p
WHERE p.id = a.id AND p.class = 80;
-- revision 2025_12_01_0012
UPDATE public.accounts AS a
SET display_name = 'User ' || p.number
FROM old_plan AS p
WHERE p.id = a.id AND p.class % 4 = 0;
-- From 2025-12-11 on each write set balance_minor to paid_credits; untouched accounts hold 0.
UPDATE public.accounts AS a
SET balance_minor = a.paid_credits
FROM old_plan AS p
WHERE p.id = a.id AND p.class % 2 = 1;
-- revision 2025_12_04_0013
UPDATE public.credits AS c
SET is_test = true
FROM old_plan AS p
WHERE p.id = c.account_id AND p.class = 70;
-- revision 2025_12_05_0014
INSERT INTO public.revoked_tokens (token_hash, user_id, reason, token_expires_at, revoked_by)
VALUES
    (md5('1') || md5('2'), 'user-1', 'lost', now() + interval '1 hour', 'ada@ciris.ai'),
    (md5('3') || md5('4'), 'user-2', 'lost', now() - interval '1 hour', 'ada@ciris.ai');
-- revision 2025_12_14_0015
INSERT INTO public.product_inventory (id, account_id, product_type, free_remaining, total_uses)
SELECT pg_temp.old_id('inventory', p.number), p.id, 'web_search', 4, 6
FROM old_plan AS p
WHERE p.number % 20 = 0;
-- One use was paid from the account's own credits, and no charge records it.
INSERT INTO public.product_usage_logs (
    id, account_id, product_type, used_free, used_paid, cost_minor, free_before, free_after,
    paid_before, paid_after, idempotency_key
)
SELECT
    pg_temp.old_id('tool', p.number), p.id, 'web_search', false, true, 1, 0, 0, 0, 0,
    'search-' || p.number
FROM old_plan AS p
WHERE p.class = 90;
UPDATE public.accounts AS a
SET paid_credits = a.paid_credits - 1
FROM old_plan AS p
WHERE p.id = a.id AND p.class = 90 AND a.paid_credits > 0;
-- revision 2026_01_29_0017
INSERT INTO public.apple_storekit_purchases (
    account_id, transaction_id, original_transaction_id, product_id, bundle_id, purchase_date,
    environment, credits_added
)
SELECT
    p.id, '2000' || p.number, '2000' || p.number, 'ai.ciris.mobile.credits_100_v1',
    'ai.ciris.mobile', now(), 'Sandbox', 99
FROM old_plan AS p
WHERE p.class = 72;
INSERT INTO public.provider_configs (id, provider_type, is_active, config_data)
VALUES (
    pg_temp.old_id('provider', 3), 'apple_storekit', false,
    jsonb_build_object(
        'key_id', 'KEY', 'private_key', 'PRIVATE ' || md5('apple' || current_setting('old.seed'))
    )
);
-- revision 2026_05_01_0018
INSERT INTO public.admin_oauth_sessions (state, redirect_uri, callback_url, created_at, expires_at)
VALUES (
    md5('state'), 'https://example.com/admin-ui/', 'https://example.com/callback', now(),
    now() + interval '10 minutes'
);
-- revision 2026_05_01_0019
INSERT INTO public.stripe_payment_intents (
    payment_intent_id, account_id, oauth_provider, external_id, amount_minor, currency,
    uses_purchased, status, created_at, credited_at
)
SELECT
    c.external_transaction_id, a.id, a.oauth_provider, a.external_id, 499, 'USD', c.amount_minor,
    'credited', c.created_at, c.created_at
FROM public.credits AS c
INNER JOIN public.accounts AS a ON a.id = c.account_id
INNER JOIN old_plan AS p ON p.id = a.id
WHERE p.class IN (45, 46) AND starts_with(c.external_transaction_id, 'pi_');
-- Offered and not paid, as far as is known here.
INSERT INTO public.stripe_payment_intents (
    payment_intent_id, account_id, oauth_provider, external_id, amount_minor, currency,
    uses_purchased
)
SELECT
    'pi_open_' || a.external_id, a.id, a.oauth_provider, a.external_id, 499, 'usd', 50
FROM public.accounts AS a
INNER JOIN old_plan AS p ON p.id = a.id
WHERE p.class = 47;
-- revision 2026_08_28_0021
UPDATE public.llm_usage_logs AS l SET providers_used = '{some-provider}', llm_duration_ms = 900;
