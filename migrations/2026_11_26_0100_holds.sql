-- Credits and free uses can be held before they are spent. An account counts what its open holds
-- keep, and a constraint keeps that within what there is, so what is available is never below zero.
-- due_at is the next moment at which something must be booked for the account, such as the end of a
-- hold. Existing rows satisfy the new check; the next step reads them all.
-- depends: 2026_11_26_0095_paypals_name
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.accounts
    ADD COLUMN held_credits bigint NOT NULL DEFAULT 0,
    ADD COLUMN held_free_uses bigint NOT NULL DEFAULT 0,
    ADD COLUMN due_at timestamptz,
    ADD CONSTRAINT accounts_held CHECK (
        held_credits >= 0 AND held_credits <= paid_credits
        AND held_free_uses >= 0 AND held_free_uses <= free_uses_remaining
    ) NOT VALID;
COMMENT ON COLUMN billing_data.accounts.held_credits IS 'Paid credits that open holds keep.';
COMMENT ON COLUMN billing_data.accounts.held_free_uses IS 'Free uses that open holds keep.';
COMMENT ON COLUMN billing_data.accounts.due_at IS
    'When something must be booked for the account before anything is decided.';

CREATE TABLE billing_data.holds (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    free_uses bigint NOT NULL,
    currency varchar(3) NOT NULL,
    state text NOT NULL DEFAULT 'open',
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    settled_at timestamptz,
    charge_id uuid,
    captured_minor bigint,
    capture_asked bigint,
    capture_overage text,
    is_late boolean NOT NULL DEFAULT false,
    description varchar(1000) NOT NULL,
    idempotency_key varchar(255),
    request_fingerprint bytea NOT NULL,
    metadata_message_id varchar(255),
    metadata_agent_id varchar(255),
    metadata_channel_id varchar(255),
    metadata_request_id varchar(255),
    api_key_id uuid,
    database_role text,
    CONSTRAINT holds_pkey PRIMARY KEY (id),
    CONSTRAINT holds_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT holds_charge FOREIGN KEY (charge_id)
        REFERENCES billing_data.charges (id) ON DELETE RESTRICT,
    CONSTRAINT holds_amount CHECK (amount_minor > 0 AND free_uses IN (0, 1)),
    CONSTRAINT holds_state CHECK (state IN ('open', 'captured', 'released', 'expired')),
    CONSTRAINT holds_in_order CHECK (expires_at > created_at),
    CONSTRAINT holds_settled CHECK ((settled_at IS NOT NULL) = (state IN ('captured', 'released'))),
    CONSTRAINT holds_captured CHECK (
        CASE
            WHEN state = 'captured'
                THEN num_nulls(captured_minor, capture_asked, capture_overage) = 0
                AND captured_minor >= 0 AND captured_minor <= capture_asked
                AND (captured_minor > 0) = (charge_id IS NOT NULL)
                AND (captured_minor <= amount_minor OR capture_overage = 'available')
            ELSE num_nonnulls(captured_minor, capture_asked, capture_overage, charge_id) = 0
        END
    ),
    CONSTRAINT holds_overage CHECK (capture_overage IN ('refuse', 'available')),
    CONSTRAINT holds_one_writer CHECK (num_nonnulls(api_key_id, database_role) = 1)
)
WITH (fillfactor = 85);
ALTER TABLE billing_data.holds OWNER TO billing_owner;
COMMENT ON TABLE billing_data.holds IS
    'Credits or a free use, kept for a use whose price is known afterwards.';
CREATE INDEX holds_open ON billing_data.holds (account_id, expires_at) WHERE state = 'open';
CREATE UNIQUE INDEX holds_idempotency ON billing_data.holds (account_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX holds_by_account ON billing_data.holds (account_id, id);
CREATE UNIQUE INDEX holds_charge_once ON billing_data.holds (charge_id) WHERE charge_id IS NOT NULL;

CREATE TABLE billing_data.hold_changes (
    id uuid NOT NULL,
    hold_id uuid NOT NULL,
    change text NOT NULL,
    amount_minor bigint,
    expires_at timestamptz,
    reason text,
    created_at timestamptz NOT NULL,
    api_key_id uuid,
    admin_user_id uuid,
    database_role text,
    CONSTRAINT hold_changes_pkey PRIMARY KEY (id),
    CONSTRAINT hold_changes_hold FOREIGN KEY (hold_id)
        REFERENCES billing_data.holds (id) ON DELETE RESTRICT,
    CONSTRAINT hold_changes_change
        CHECK (change IN ('extended', 'captured', 'released', 'expired')),
    CONSTRAINT hold_changes_reason CHECK (length(reason) <= 500),
    -- The clock ends a hold: nobody does.
    CONSTRAINT hold_changes_one_writer CHECK (
        num_nonnulls(api_key_id, admin_user_id, database_role)
        = CASE change WHEN 'expired' THEN 0 ELSE 1 END
    )
);
ALTER TABLE billing_data.hold_changes OWNER TO billing_owner;
COMMENT ON TABLE billing_data.hold_changes IS
    'What became of each hold, and who did it. The hold''s own row says who made it, and the charge'
    ' of a capture who captured it.';
CREATE INDEX hold_changes_hold_id ON billing_data.hold_changes (hold_id);
