-- The payment providers are rows of a table, which says what each is called and what its settings
-- are. The names stood in five checks and in the functions before; now a provider more is one row,
-- written by a step like this one. The rows of square and paypal are those of the old service,
-- which took settings for them and sold nothing by them.
-- depends: 2026_11_26_0047_items
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.payment_providers (
    kind text NOT NULL,
    name text NOT NULL,
    place integer NOT NULL,
    is_offered boolean NOT NULL DEFAULT false,
    payment_id_prefix text,
    credential text NOT NULL DEFAULT 'api_key',
    public_settings text[] NOT NULL DEFAULT '{}',
    listed_settings text[] NOT NULL DEFAULT '{}',
    CONSTRAINT payment_providers_pkey PRIMARY KEY (kind),
    CONSTRAINT payment_providers_kind CHECK (kind ~ '^[a-z][a-z0-9_]{0,49}$'),
    CONSTRAINT payment_providers_name CHECK (length(name) BETWEEN 1 AND 100),
    CONSTRAINT payment_providers_place UNIQUE (place),
    CONSTRAINT payment_providers_payment_id_prefix
        CHECK (length(payment_id_prefix) BETWEEN 2 AND 50),
    CONSTRAINT payment_providers_credential CHECK (
        length(credential) BETWEEN 1 AND 100
        AND credential <> ALL (public_settings)
        AND credential <> ALL (listed_settings)
    )
);
ALTER TABLE billing_data.payment_providers OWNER TO billing_owner;
COMMENT ON COLUMN billing_data.payment_providers.kind IS
    'The word that rows and calls name the provider by; also the folder of its code.';
COMMENT ON COLUMN billing_data.payment_providers.name IS 'What people call it.';
COMMENT ON COLUMN billing_data.payment_providers.place IS
    'Its place in lists. The first is meant where no provider is named.';
COMMENT ON COLUMN billing_data.payment_providers.is_offered IS
    'Whether a purchase is offered by it where none is named and it is set up and active.';
COMMENT ON COLUMN billing_data.payment_providers.payment_id_prefix IS
    'What all ids of its payments begin with, and no other provider''s; NULL when nothing is.';
COMMENT ON COLUMN billing_data.payment_providers.credential IS
    'The setting without which nothing can be asked of it; its mode is the provider''s mode.';
COMMENT ON COLUMN billing_data.payment_providers.public_settings IS
    'The settings that are no secrets and are stored as they are.';
COMMENT ON COLUMN billing_data.payment_providers.listed_settings IS
    'The secrets of which there may be several at a time.';

INSERT INTO billing_data.payment_providers (
    kind, name, place, is_offered, payment_id_prefix, public_settings, listed_settings
)
VALUES
('stripe', 'Stripe', 1, true, 'pi_', '{publishable_key}', '{webhook_secret}'),
('square', 'Square', 2, false, NULL, '{publishable_key}', '{webhook_secret}'),
('paypal', 'Paypal', 3, false, NULL, '{publishable_key}', '{webhook_secret}');

-- The checks held until now, so the rows that are there fit; the next step reads them all.
ALTER TABLE billing_data.provider_configs
    DROP CONSTRAINT ck_provider_configs_type,
    ADD CONSTRAINT provider_configs_provider_type FOREIGN KEY (provider_type)
        REFERENCES billing_data.payment_providers (kind) ON DELETE RESTRICT NOT VALID;
ALTER TABLE billing_data.purchases
    DROP CONSTRAINT purchases_provider,
    ALTER COLUMN provider DROP DEFAULT,
    ADD CONSTRAINT purchases_provider FOREIGN KEY (provider)
        REFERENCES billing_data.payment_providers (kind) ON DELETE RESTRICT NOT VALID;
ALTER TABLE billing_data.payment_events
    DROP CONSTRAINT payment_events_provider,
    ADD CONSTRAINT payment_events_provider FOREIGN KEY (provider)
        REFERENCES billing_data.payment_providers (kind) ON DELETE RESTRICT NOT VALID;
ALTER TABLE billing_data.payment_returns
    DROP CONSTRAINT payment_returns_provider,
    ADD CONSTRAINT payment_returns_provider FOREIGN KEY (provider)
        REFERENCES billing_data.payment_providers (kind) ON DELETE RESTRICT NOT VALID;
ALTER TABLE billing_data.payment_effects
    DROP CONSTRAINT payment_effects_provider,
    ADD CONSTRAINT payment_effects_provider FOREIGN KEY (provider)
        REFERENCES billing_data.payment_providers (kind) ON DELETE RESTRICT NOT VALID;
ALTER TABLE billing_data.payment_warnings
    DROP CONSTRAINT payment_warnings_provider,
    ADD CONSTRAINT payment_warnings_provider FOREIGN KEY (provider)
        REFERENCES billing_data.payment_providers (kind) ON DELETE RESTRICT NOT VALID;
