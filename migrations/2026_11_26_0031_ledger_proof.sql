-- What the books are proven by, beside the entries themselves. An account keeps how many free uses
-- it was opened with. Where books began otherwise (after entries of the old service, which are in
-- another unit; with other free uses), a table says after which version and with what; a trigger
-- sees to it that nobody adds to it later. Each entry gets a digest of itself, so that a change to
-- it shows even where nothing is added up, as in the amount of a free use; entries of before have
-- none, and settings keep until when.
-- depends: 2026_11_26_0030_bounds_validated
SET LOCAL lock_timeout = '1s';

-- The default is what the release before this one gives while it is still in place.
DO $column$
BEGIN
    EXECUTE format(
        'ALTER TABLE billing_data.accounts ADD COLUMN free_uses_granted bigint NOT NULL DEFAULT %s',
        (SELECT s.free_uses FROM billing_data.settings AS s)
    );
END
$column$;
ALTER TABLE billing_data.charges ADD COLUMN digest bigint;
ALTER TABLE billing_data.credits ADD COLUMN digest bigint;
ALTER TABLE billing_data.settings ADD COLUMN digests_since timestamptz;

CREATE TABLE billing_data.ledger_openings (
    account_id uuid NOT NULL,
    ledger_version bigint NOT NULL,
    paid_credits bigint NOT NULL,
    total_uses bigint NOT NULL,
    free_uses bigint NOT NULL,
    CONSTRAINT ledger_openings_pkey PRIMARY KEY (account_id),
    CONSTRAINT ledger_openings_account FOREIGN KEY (account_id)
        REFERENCES billing_data.accounts (id) ON DELETE RESTRICT,
    CONSTRAINT ledger_openings_ledger_version_non_negative CHECK (ledger_version >= 0),
    CONSTRAINT ledger_openings_of_nothing
        CHECK (ledger_version > 0 OR (paid_credits = 0 AND total_uses = 0))
);
ALTER TABLE billing_data.ledger_openings OWNER TO billing_owner;
