-- What proves that sealed entries are as they were: for each account and day a seal, which chains
-- to the account's seal before, and for each day a head over all seals, which chains to the head of
-- the day before. seal_state is how far the sealing of a day has come. A verification of the books
-- is a run over ranges of accounts, which keeps what it found, so that it can be stopped and go on.
-- Seals do not refer to accounts: a reference would lock accounts that are being charged, and the
-- seals of an account that somebody removed must stay.
-- depends: 2026_11_26_0085_erased_entries
SET LOCAL lock_timeout = '1s';

CREATE TABLE billing_data.seals (
    account_id uuid NOT NULL,
    day date NOT NULL,
    first_version bigint NOT NULL,
    last_version bigint NOT NULL,
    leaves bytea NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT seals_pkey PRIMARY KEY (account_id, last_version),
    CONSTRAINT seals_versions CHECK (first_version > 0 AND last_version >= first_version),
    CONSTRAINT seals_digest_length CHECK (octet_length(digest) = 32)
);
ALTER TABLE billing_data.seals OWNER TO billing_owner;
-- A head is computed in this order.
CREATE INDEX seals_day ON billing_data.seals (day, account_id, last_version);
COMMENT ON COLUMN billing_data.seals.leaves IS
    'The first 8 bytes of each entry''s leaf, to name the entry that is not as it was.';

CREATE TABLE billing_data.seal_heads (
    day date NOT NULL,
    seals bigint NOT NULL,
    entries bigint NOT NULL,
    head bytea NOT NULL,
    closed_at timestamptz NOT NULL,
    CONSTRAINT seal_heads_pkey PRIMARY KEY (day),
    CONSTRAINT seal_heads_head_length CHECK (octet_length(head) = 32)
);
ALTER TABLE billing_data.seal_heads OWNER TO billing_owner;

CREATE TABLE billing_data.seal_state (
    id boolean NOT NULL DEFAULT true,
    day date,
    after uuid,
    next_at timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT seal_state_pkey PRIMARY KEY (id),
    CONSTRAINT seal_state_one_row CHECK (id)
);
ALTER TABLE billing_data.seal_state OWNER TO billing_owner;
INSERT INTO billing_data.seal_state DEFAULT VALUES;

CREATE TABLE billing_data.verification_runs (
    id bigint NOT NULL,
    started_at timestamptz NOT NULL,
    started_by text NOT NULL,
    CONSTRAINT verification_runs_pkey PRIMARY KEY (id)
);
ALTER TABLE billing_data.verification_runs OWNER TO billing_owner;

CREATE TABLE billing_data.verification_ranges (
    run_id bigint NOT NULL,
    place bigint NOT NULL,
    after uuid,
    through uuid,
    accounts bigint NOT NULL,
    entries bigint NOT NULL,
    problem_count bigint,
    problems jsonb,
    verified_at timestamptz,
    CONSTRAINT verification_ranges_pkey PRIMARY KEY (run_id, place),
    CONSTRAINT verification_ranges_run FOREIGN KEY (run_id)
        REFERENCES billing_data.verification_runs (id) ON DELETE CASCADE
);
ALTER TABLE billing_data.verification_ranges OWNER TO billing_owner;
