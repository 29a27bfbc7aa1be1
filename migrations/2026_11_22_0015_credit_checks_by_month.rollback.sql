SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;

ALTER TABLE billing_data.credit_checks RENAME TO credit_checks_by_month;

CREATE TABLE billing_data.credit_checks (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
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
    CONSTRAINT credit_checks_pkey PRIMARY KEY (id),
    CONSTRAINT fk_credit_checks_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE SET NULL
);
ALTER TABLE billing_data.credit_checks OWNER TO billing_owner;

INSERT INTO billing_data.credit_checks (
    id, account_id, oauth_provider, external_id, wa_id, tenant_id, has_credit, credits_remaining,
    plan_name, denial_reason, context_agent_id, context_channel_id, context_request_id, created_at
)
SELECT
    c.id, c.account_id, c.oauth_provider, c.external_id, c.wa_id, c.tenant_id, c.has_credit,
    c.credits_remaining, c.plan_name, c.denial_reason, c.context_agent_id, c.context_channel_id,
    c.context_request_id, c.created_at
FROM billing_data.credit_checks_by_month AS c;

DROP TABLE billing_data.credit_checks_by_month CASCADE;

CREATE INDEX idx_credit_checks_account_id ON billing_data.credit_checks (account_id)
    WHERE account_id IS NOT NULL;
CREATE INDEX idx_credit_checks_created_at ON billing_data.credit_checks (created_at);
CREATE INDEX idx_credit_checks_oauth_external
    ON billing_data.credit_checks (oauth_provider, external_id);
CREATE INDEX idx_credit_checks_has_credit ON billing_data.credit_checks (has_credit);
