-- What the business may change without a deploy: one row, read by the functions. The environment
-- only seeds it (seeded_at says when).
-- depends: 2026_11_22_0013_ledger_constraints
SET LOCAL lock_timeout = '5s';

CREATE TABLE billing_data.settings (
    id boolean NOT NULL DEFAULT true,
    free_uses bigint NOT NULL DEFAULT 3,
    pack_uses bigint NOT NULL DEFAULT 20,
    pack_price_minor bigint NOT NULL DEFAULT 500,
    pack_currency text NOT NULL DEFAULT 'USD',
    admin_email_domain text NOT NULL DEFAULT 'ciris.ai',
    seeded_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT settings_pkey PRIMARY KEY (id),
    CONSTRAINT settings_one_row CHECK (id),
    CONSTRAINT settings_free_uses_non_negative CHECK (free_uses >= 0),
    CONSTRAINT settings_pack_uses_positive CHECK (pack_uses > 0),
    CONSTRAINT settings_pack_price_positive CHECK (pack_price_minor > 0),
    CONSTRAINT settings_pack_currency_code CHECK (pack_currency ~ '^[A-Z]{3}$')
);
ALTER TABLE billing_data.settings OWNER TO billing_owner;
INSERT INTO billing_data.settings (id) VALUES (true);
