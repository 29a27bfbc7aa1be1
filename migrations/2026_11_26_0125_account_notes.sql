-- What staff want to remember of an account. Notes are no part of the books: they can be removed.
-- depends: 2026_11_26_0120_top_ups
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.account_notes (
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    note text NOT NULL,
    admin_user_id uuid,
    database_role text,
    created_at timestamptz NOT NULL,
    CONSTRAINT account_notes_pkey PRIMARY KEY (id),
    CONSTRAINT account_notes_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT account_notes_admin_user FOREIGN KEY (admin_user_id)
        REFERENCES billing_data.admin_users (id) ON DELETE RESTRICT,
    CONSTRAINT account_notes_note CHECK (length(note) BETWEEN 1 AND 2000),
    CONSTRAINT account_notes_one_writer CHECK (num_nonnulls(admin_user_id, database_role) = 1)
);
ALTER TABLE billing_data.account_notes OWNER TO billing_owner;
CREATE INDEX account_notes_account_id ON billing_data.account_notes (account_id, created_at);
