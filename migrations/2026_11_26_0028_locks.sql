-- What the functions do one at a time is kept apart by rows that only their owner can lock. An
-- advisory lock is a number: whoever may connect could take it, and hold it.
-- depends: 2026_11_26_0027_key_credentials
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.locks (
    name text NOT NULL,
    CONSTRAINT locks_pkey PRIMARY KEY (name)
);
ALTER TABLE billing_data.locks OWNER TO billing_owner;
INSERT INTO billing_data.locks (name) VALUES ('sign_in');
