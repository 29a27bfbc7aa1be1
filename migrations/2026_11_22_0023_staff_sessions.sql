-- Browser sessions of staff, revocable here: a cookie names a session, this table says whose it is
-- and until when. Tickets are good once: the state of a sign-in under way, and the link that `dev`
-- prints. Of all three only hashes are stored.
-- depends: 2026_11_22_0022_purchase_constraints
SET LOCAL lock_timeout = '5s';

CREATE TABLE billing_data.admin_sessions (
    session_hash bytea NOT NULL,
    admin_user_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT admin_sessions_pkey PRIMARY KEY (session_hash),
    CONSTRAINT admin_sessions_admin FOREIGN KEY (admin_user_id)
        REFERENCES billing_data.admin_users (id) ON DELETE CASCADE
);
ALTER TABLE billing_data.admin_sessions OWNER TO billing_owner;
CREATE INDEX admin_sessions_admin_user_id ON billing_data.admin_sessions (admin_user_id);

CREATE TABLE billing_data.sign_in_tickets (
    ticket_hash bytea NOT NULL,
    admin_user_id uuid,
    expires_at timestamptz NOT NULL,
    CONSTRAINT sign_in_tickets_pkey PRIMARY KEY (ticket_hash),
    CONSTRAINT sign_in_tickets_admin FOREIGN KEY (admin_user_id)
        REFERENCES billing_data.admin_users (id) ON DELETE CASCADE
);
ALTER TABLE billing_data.sign_in_tickets OWNER TO billing_owner;
