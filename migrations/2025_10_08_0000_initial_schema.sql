-- Credit gating starts here: an account per user of an agent, its prepaid balance, and the trail
-- behind it. A charge takes from the balance and a credit adds to it; each row states the balance
-- before and after, and an idempotency key lets a caller repeat a request without paying twice.
-- credit_checks records every question "may this user go on?" with its answer, also for users
-- without an account.
--
-- This folder starts with the history of the databases in production, so this step and the eight
-- after it say what those databases hold, down to names and column order. Improvements come in
-- later steps. (uq_account_identity is such a case: a NULL in wa_id or tenant_id lets duplicates of
-- one user in.)

SET LOCAL lock_timeout = '5s';

CREATE TABLE public.accounts (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    oauth_provider varchar(255) NOT NULL,
    external_id varchar(255) NOT NULL,
    wa_id varchar(255),
    tenant_id varchar(255),
    balance_minor bigint NOT NULL DEFAULT 0,
    currency varchar(3) NOT NULL DEFAULT 'USD',
    plan_name varchar(100) NOT NULL DEFAULT 'free',
    status varchar(20) NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ck_balance_non_negative CHECK (balance_minor >= 0),
    CONSTRAINT ck_account_status CHECK (status IN ('active', 'suspended', 'closed')),
    CONSTRAINT uq_account_identity UNIQUE (oauth_provider, external_id, wa_id, tenant_id)
);

CREATE INDEX idx_accounts_oauth_external ON public.accounts (oauth_provider, external_id);
CREATE INDEX idx_accounts_wa_id ON public.accounts (wa_id) WHERE wa_id IS NOT NULL;
CREATE INDEX idx_accounts_tenant_id ON public.accounts (tenant_id) WHERE tenant_id IS NOT NULL;
CREATE INDEX idx_accounts_status ON public.accounts (status);
CREATE INDEX idx_accounts_updated_at ON public.accounts (updated_at);

CREATE TABLE public.charges (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    currency varchar(3) NOT NULL,
    balance_before bigint NOT NULL,
    balance_after bigint NOT NULL,
    description varchar NOT NULL,
    idempotency_key varchar(255),
    metadata_message_id varchar(255),
    metadata_agent_id varchar(255),
    metadata_channel_id varchar(255),
    metadata_request_id varchar(255),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT fk_charges_account
        FOREIGN KEY (account_id) REFERENCES public.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT ck_charge_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_charge_balance_consistency CHECK (balance_after = balance_before - amount_minor),
    CONSTRAINT uq_charge_idempotency UNIQUE (account_id, idempotency_key)
);

CREATE INDEX idx_charges_account_id ON public.charges (account_id);
CREATE INDEX idx_charges_created_at ON public.charges (created_at);
CREATE INDEX idx_charges_idempotency_key ON public.charges (idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX idx_charges_request_id ON public.charges (metadata_request_id)
    WHERE metadata_request_id IS NOT NULL;

CREATE TABLE public.credits (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    currency varchar(3) NOT NULL,
    balance_before bigint NOT NULL,
    balance_after bigint NOT NULL,
    transaction_type varchar(20) NOT NULL,
    description varchar NOT NULL,
    external_transaction_id varchar(255),
    idempotency_key varchar(255),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT fk_credits_account
        FOREIGN KEY (account_id) REFERENCES public.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT ck_credit_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT ck_credit_balance_consistency CHECK (balance_after = balance_before + amount_minor),
    CONSTRAINT ck_transaction_type
        CHECK (transaction_type IN ('purchase', 'grant', 'refund', 'adjustment')),
    CONSTRAINT uq_credit_idempotency UNIQUE (account_id, idempotency_key)
);

CREATE INDEX idx_credits_account_id ON public.credits (account_id);
CREATE INDEX idx_credits_created_at ON public.credits (created_at);
CREATE INDEX idx_credits_transaction_type ON public.credits (transaction_type);
CREATE INDEX idx_credits_external_transaction_id ON public.credits (external_transaction_id)
    WHERE external_transaction_id IS NOT NULL;

CREATE TABLE public.credit_checks (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid,
    oauth_provider varchar(255) NOT NULL,
    external_id varchar(255) NOT NULL,
    wa_id varchar(255),
    tenant_id varchar(255),
    has_credit boolean NOT NULL,
    credits_remaining bigint,
    plan_name varchar(100),
    denial_reason varchar,
    context_agent_id varchar(255),
    context_channel_id varchar(255),
    context_request_id varchar(255),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT fk_credit_checks_account
        FOREIGN KEY (account_id) REFERENCES public.accounts (id) ON DELETE SET NULL
);

CREATE INDEX idx_credit_checks_account_id ON public.credit_checks (account_id)
    WHERE account_id IS NOT NULL;
CREATE INDEX idx_credit_checks_created_at ON public.credit_checks (created_at);
CREATE INDEX idx_credit_checks_oauth_external ON public.credit_checks (oauth_provider, external_id);
CREATE INDEX idx_credit_checks_has_credit ON public.credit_checks (has_credit);
