-- The tables and columns of the old service's revisions after 2025_10_21_0008. Each section begins
-- with a line that names its revision.
-- revision 2025_11_25_0009
CREATE TABLE public.google_play_purchases (
    id bigserial PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    purchase_token varchar(4096) NOT NULL,
    order_id varchar(255) NOT NULL,
    product_id varchar(255) NOT NULL,
    package_name varchar(255) NOT NULL,
    purchase_time_millis bigint NOT NULL,
    purchase_state int NOT NULL,
    acknowledged boolean NOT NULL DEFAULT false,
    consumed boolean NOT NULL DEFAULT false,
    credits_added int NOT NULL,
    credit_id uuid REFERENCES public.credits (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX idx_google_play_purchases_purchase_token
    ON public.google_play_purchases (purchase_token);
CREATE INDEX idx_google_play_purchases_order_id ON public.google_play_purchases (order_id);
CREATE INDEX idx_google_play_purchases_account_id ON public.google_play_purchases (account_id);
ALTER TABLE public.provider_configs
    DROP CONSTRAINT ck_provider_configs_type,
    ADD CONSTRAINT ck_provider_configs_type
        CHECK (provider_type IN ('stripe', 'square', 'paypal', 'google_play'));
-- revision 2025_11_25_0010
CREATE TABLE public.llm_usage_logs (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    interaction_id varchar(255) NOT NULL,
    charge_id uuid REFERENCES public.charges (id) ON DELETE SET NULL,
    total_llm_calls int NOT NULL,
    total_prompt_tokens bigint NOT NULL,
    total_completion_tokens bigint NOT NULL,
    models_used varchar[] NOT NULL DEFAULT '{}',
    actual_cost_cents int NOT NULL,
    duration_ms int NOT NULL,
    error_count int NOT NULL DEFAULT 0,
    fallback_count int NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_llm_usage_logs_account_id ON public.llm_usage_logs (account_id);
CREATE INDEX idx_llm_usage_logs_interaction_id ON public.llm_usage_logs (interaction_id);
CREATE INDEX idx_llm_usage_logs_created_at ON public.llm_usage_logs (created_at);
-- revision 2025_11_29_0011
ALTER TABLE public.accounts
    ADD COLUMN daily_free_uses_remaining int NOT NULL DEFAULT 2,
    ADD COLUMN daily_free_uses_reset_at timestamptz,
    ADD COLUMN daily_free_uses_limit int NOT NULL DEFAULT 2,
    ADD CONSTRAINT ck_daily_free_uses_non_negative CHECK (daily_free_uses_remaining >= 0),
    ADD CONSTRAINT ck_daily_free_uses_limit_positive CHECK (daily_free_uses_limit > 0);
-- revision 2025_12_01_0012
ALTER TABLE public.accounts ADD COLUMN display_name varchar(255);
-- revision 2025_12_04_0013
ALTER TABLE public.credits ADD COLUMN is_test boolean NOT NULL DEFAULT false;
-- revision 2025_12_05_0014
CREATE TABLE public.revoked_tokens (
    token_hash varchar(64) PRIMARY KEY,
    user_id varchar(255) NOT NULL,
    reason varchar(255) NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    token_expires_at timestamptz NOT NULL,
    revoked_by varchar(255) NOT NULL
);
CREATE INDEX ix_revoked_tokens_user_id ON public.revoked_tokens (user_id);
CREATE INDEX idx_revoked_tokens_user_id ON public.revoked_tokens (user_id);
CREATE INDEX idx_revoked_tokens_expires_at ON public.revoked_tokens (token_expires_at);
-- revision 2025_12_14_0015
CREATE TABLE public.product_inventory (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    product_type varchar(50) NOT NULL,
    free_remaining int NOT NULL DEFAULT 0,
    paid_credits int NOT NULL DEFAULT 0,
    last_daily_refresh timestamptz,
    total_uses bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ck_product_inventory_free_non_negative CHECK (free_remaining >= 0),
    CONSTRAINT ck_product_inventory_paid_non_negative CHECK (paid_credits >= 0),
    CONSTRAINT ck_product_inventory_uses_non_negative CHECK (total_uses >= 0),
    CONSTRAINT uq_product_inventory_account_product UNIQUE (account_id, product_type)
);
CREATE INDEX idx_product_inventory_account_id ON public.product_inventory (account_id);
CREATE INDEX idx_product_inventory_product_type ON public.product_inventory (product_type);
CREATE TABLE public.product_usage_logs (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    product_type varchar(50) NOT NULL,
    used_free boolean NOT NULL,
    used_paid boolean NOT NULL,
    cost_minor int NOT NULL,
    free_before int NOT NULL,
    free_after int NOT NULL,
    paid_before int NOT NULL,
    paid_after int NOT NULL,
    idempotency_key varchar(255),
    request_id varchar(255),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_product_usage_idempotency UNIQUE (account_id, idempotency_key)
);
CREATE INDEX idx_product_usage_logs_account_id ON public.product_usage_logs (account_id);
CREATE INDEX idx_product_usage_logs_product_type ON public.product_usage_logs (product_type);
CREATE INDEX idx_product_usage_logs_created_at ON public.product_usage_logs (created_at);
CREATE INDEX idx_product_usage_logs_idempotency ON public.product_usage_logs (idempotency_key)
    WHERE idempotency_key IS NOT NULL;
-- revision 2025_12_17_0016
ALTER TABLE public.accounts
    ADD CONSTRAINT uq_accounts_oauth_external_id UNIQUE (oauth_provider, external_id);
-- revision 2026_01_29_0017
CREATE TABLE public.apple_storekit_purchases (
    id bigserial PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    transaction_id varchar(255) NOT NULL,
    original_transaction_id varchar(255) NOT NULL,
    product_id varchar(255) NOT NULL,
    bundle_id varchar(255) NOT NULL,
    purchase_date timestamptz NOT NULL,
    environment varchar(50) NOT NULL,
    credits_added int NOT NULL,
    credit_id uuid REFERENCES public.credits (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX idx_apple_storekit_purchases_transaction_id
    ON public.apple_storekit_purchases (transaction_id);
CREATE INDEX idx_apple_storekit_purchases_original_tx_id
    ON public.apple_storekit_purchases (original_transaction_id);
CREATE INDEX idx_apple_storekit_purchases_account_id
    ON public.apple_storekit_purchases (account_id);
ALTER TABLE public.provider_configs
    DROP CONSTRAINT ck_provider_configs_type,
    ADD CONSTRAINT ck_provider_configs_type CHECK (
        provider_type IN ('stripe', 'square', 'paypal', 'google_play', 'apple_storekit')
    );
-- revision 2026_05_01_0018
CREATE TABLE public.admin_oauth_sessions (
    state varchar(64) PRIMARY KEY,
    redirect_uri varchar(2048) NOT NULL,
    callback_url varchar(2048) NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX idx_admin_oauth_sessions_expires_at ON public.admin_oauth_sessions (expires_at);
-- revision 2026_05_01_0019
CREATE TABLE public.stripe_payment_intents (
    payment_intent_id varchar(255) PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE RESTRICT,
    oauth_provider varchar(255) NOT NULL,
    external_id varchar(255) NOT NULL,
    amount_minor bigint NOT NULL,
    currency varchar(3) NOT NULL,
    uses_purchased int NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'created',
    created_at timestamptz NOT NULL DEFAULT now(),
    credited_at timestamptz
);
CREATE INDEX idx_stripe_payment_intents_account_id
    ON public.stripe_payment_intents (account_id);
CREATE INDEX idx_stripe_payment_intents_status ON public.stripe_payment_intents (status);
-- revision 2026_05_01_0020
-- revision 2026_08_28_0021
ALTER TABLE public.llm_usage_logs
    ADD COLUMN providers_used varchar[] NOT NULL DEFAULT '{}',
    ADD COLUMN llm_duration_ms int;
