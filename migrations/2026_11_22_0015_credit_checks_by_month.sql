-- Every check leaves a row, so this table grows fastest of all: partitioned by month, old months
-- are dropped whole. No foreign key and no primary key: an audit row must not lock the account it
-- speaks of, and nothing refers to it. Months are made by billing.create_check_partitions.
-- depends: 2026_11_22_0014_settings
SET LOCAL lock_timeout = '5s';

ALTER TABLE billing_data.credit_checks RENAME TO credit_checks_legacy;

CREATE TABLE billing_data.credit_checks (
    id uuid NOT NULL,
    account_id uuid,
    oauth_provider varchar(255) NOT NULL,
    external_id varchar(255) NOT NULL,
    wa_id varchar(255),
    tenant_id varchar(255),
    has_credit boolean NOT NULL,
    credits_remaining bigint,
    free_uses_remaining bigint,
    plan_name varchar(100),
    denial_reason varchar,
    context_agent_id varchar(255),
    context_channel_id varchar(255),
    context_request_id varchar(255),
    api_key_id uuid,
    database_role text,
    created_at timestamptz NOT NULL
) PARTITION BY RANGE (created_at);
ALTER TABLE billing_data.credit_checks OWNER TO billing_owner;

CREATE INDEX credit_checks_account ON billing_data.credit_checks (account_id, created_at);

CREATE TABLE billing_data.credit_checks_default PARTITION OF billing_data.credit_checks DEFAULT;
ALTER TABLE billing_data.credit_checks_default OWNER TO billing_owner;

INSERT INTO billing_data.credit_checks (
    id, account_id, oauth_provider, external_id, wa_id, tenant_id, has_credit, credits_remaining,
    plan_name, denial_reason, context_agent_id, context_channel_id, context_request_id,
    database_role, created_at
)
SELECT
    c.id, c.account_id, c.oauth_provider, c.external_id, c.wa_id, c.tenant_id, c.has_credit,
    c.credits_remaining, c.plan_name, c.denial_reason, c.context_agent_id, c.context_channel_id,
    c.context_request_id, 'legacy', c.created_at
FROM billing_data.credit_checks_legacy AS c;

DROP TABLE billing_data.credit_checks_legacy;
