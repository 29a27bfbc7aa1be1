-- What the header comments of the functions say, so that help() can say it in psql.
-- Written by `make golden` from these comments; not to be edited.
CREATE OR REPLACE FUNCTION billing_data.manual()
RETURNS TABLE (name text, about text, effects text, example text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $manual$
    SELECT m.name, m.about, m.effects, m.example
    FROM (
        VALUES
        ('add_admin',
$t$Adds a staff member, or changes the role and name of an existing one and reactivates them.
The last active administrator cannot lose that role. Somebody who becomes an administrator
by this call must sign in (again) within seven days: see billing.sign_in_admin.$t$,
$t$Locks: all administrators. Writes: admin_users 1, admin_audit_logs 1. Errors: actor
errors, invalid_argument, last_admin.$t$,
$t$SELECT *
FROM billing.add_admin(
    p_email => 'ada@example.com',
    p_role => 'admin');$t$),
        ('add_note',
$t$Writes a note on an account. The audit log says that it was written, and not what.$t$,
$t$Locks: none. Writes: account_notes 1, admin_audit_logs 1. Errors: actor errors,
invalid_argument, account_not_found, account_erased.$t$,
$t$SELECT *
FROM billing.add_note(
    p_account_id => '...',
    p_note => 'prefers letters');$t$),
        ('adjust_credits',
$t$Adds or takes away paid credits by a staff member's decision, for one account
(p_account_id) or for several (p_account_ids), all or none. Several accounts get an amount
each (p_amounts), or all the same (p_amount). They get the same reason and the same
idempotency key, which belongs to an account. A balance below zero is refused. When the
key was used before for the same change, nothing is done for that account and replayed is
true. With p_dry_run nothing is written and credit_id is NULL. What is given may end
(p_expires_at), have a priority (0 to 100, lower ones are spent first) or be a promotion
(p_source). Returns a row for each account, in the order of their ids.$t$,
$t$Locks: the accounts, in id order, so that two callers cannot deadlock. Writes: accounts 1,
credits 1, lots 0..1, admin_audit_logs 1 for each. Errors: actor errors, invalid_argument,
account_not_found, account_erased, insufficient_credits, balance_overflow,
idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.adjust_credits(
    p_account_id => '...',
    p_amount => 5,
    p_reason => 'goodwill');$t$),
        ('announce_expiring_credits',
$t$Raises an alert for each lot of credits that ends within seven days and has something
left, once for each lot. Does nothing while no endpoint wants this kind of alert. Returns
how many alerts it raised. The servers call it by themselves, every minute.$t$,
$t$Locks: none that a charge waits for. Writes: announced_lots 1 per lot, outbox 1 per lot
and endpoint. Errors: invalid_argument.$t$,
$t$SELECT billing.announce_expiring_credits(
    p_most => 100);$t$),
        ('attach_payment',
$t$Records which payment the provider made for a purchase, and the payment's state. The first
payment recorded stays; a second caller gets the first one.$t$,
$t$Locks: the purchase. Writes: purchases 0..1, admin_audit_logs 1 where staff or a database
role says so. Errors: actor and key errors, invalid_argument, payment_not_found,
payment_attached.$t$,
$t$SELECT *
FROM billing.attach_payment(
    p_account_id => '...',
    p_purchase_id => '...',
    p_payment_id => 'pi_1',
    p_payment_status => 'requires_payment_method');$t$),
        ('balance_at',
$t$What an account had at a time: its paid credits and free uses, and the entry that left it
so. An entry that was written at exactly this time counts. state is known; before_account,
where the account did not exist yet; or before_books, where it was still one of the old
service, whose balances were in another unit (in both cases the balances are NULL). Where
there was no entry yet, the entry's columns are NULL. A time without a zone is in the
session's time zone: write '2026-11-01 00:00Z' for UTC. For an account that was merged the
answer is about the account that stayed; with p_follow false it is about the merged
account itself.$t$,
$t$Errors: actor and key errors, invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM
billing.balance_at(billing.find_account('oauth:google:1'),
'2026-11-01 00:00Z');$t$),
        ('begin_purchase',
$t$Offers the current pack at the current price to an identity, and returns what the caller
needs to ask the provider for a payment. Creates the account when there is none; profile
fields are stored on creation only. When the idempotency key was used before for the same
request (the receipt's address may differ), returns the first purchase again (replayed
true), with the credits it has brought since. p_save_card says that the caller has the
provider save the card for top-ups.$t$,
$t$Writes: accounts 0..1, purchases 0..1. Errors: actor and key errors, invalid_argument,
payment_provider_not_configured, idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.begin_purchase(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_customer_email => 'ada@example.com');$t$),
        ('begin_refund',
$t$Records that a payment is to be refunded, whole or in part: p_amount_minor, by default all
that is left. The caller then asks the provider and records its answer by
billing.finish_refund. Nothing else changes yet: the credits are taken back when the
provider reports the refund. credits_due says how many that will be, and credits_there how
many the account has now. With the key of the same refund nothing is written and replayed
is true: the caller asks the provider again under the same refund_id, unless return_id or
failure says how it ended. With p_dry_run nothing is written and refund_id is NULL.$t$,
$t$Locks: the purchase. Writes: payment_refunds 1, admin_audit_logs 1. Errors: actor errors,
invalid_argument, payment_not_found, payment_not_settled, payment_refunded,
refund_too_great, idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.begin_refund(
    p_payment_id => 'pi_1',
    p_reason => 'bought by mistake');$t$),
        ('begin_verification',
$t$Returns the run to go on with: the newest one. Where that is finished or began more than a
day ago, or with p_restart, it begins a new run. A run has ranges of about p_entries
ledger rows. ranges_done tells whether it goes on. The newest ten runs are kept.$t$,
$t$Locks: verification_runs, for a moment. Writes: verification_runs 1, verification_ranges 1
per range. Errors: actor_required, invalid_argument.$t$,
$t$SELECT * FROM billing.begin_verification();$t$),
        ('capture_hold',
$t$Captures a hold, as billing.capture_items does, and raises a refusal as an error.$t$,
$t$Locks and writes: as billing.capture_items. Errors: actor and key errors,
invalid_argument, hold_not_found, hold_settled, hold_expired, capture_exceeds_hold.$t$,
$t$SELECT *
FROM billing.capture_hold(
    p_hold_id => '...',
    p_amount_minor => 3);$t$),
        ('capture_items',
$t$Captures a list of holds: a charge is made of what was used, and the rest is given back.
Captures of holds of one account are decided in the order of the list. amount_minor is 0
or more (NULL: all that is held). With overage 'available' more than is held can be asked
for: it takes what else is available, never below zero, so captured_minor may be less than
was asked for. A hold that is over is captured (is_late) as long as the credits are still
there. The account's state does not matter: the work was done. An item's outcome is
'created'; 'replayed' when the hold was captured before by the same request; the slug of
the refusal; 'busy', only with p_wait false, when another transaction holds the account.$t$,
$t$Locks: the accounts, in id order, then cap_usage of the caps that apply, by cap. Writes:
for each created item accounts and holds 1, charges 1 where more than 0 is captured, else
hold_changes 1, cap_usage 1 for each cap where the captured amount is not the held one,
outbox 1 for each endpoint and each cap that was reached. Errors: actor_required,
actor_not_allowed, invalid_argument, lock_not_available when an account stays held, and
serialization_failure when accounts were merged at this moment; all else is an outcome.$t$,
$t$SELECT *
FROM billing.capture_items(
    p_items =>
    ARRAY[jsonb_populate_record(NULL::billing.capture_item,
    '{"hold_id":
    "019a9c2f-10d2-7b3e-8e57-52f0c6a1b9d4",
    "amount_minor": 3}')]);$t$),
        ('change_grant_schedule',
$t$Changes a running schedule of grants from its next grant on: how much it gives, whether
what is left is kept when the next grants come, and what its credits are called. An
argument that is NULL changes nothing; where nothing changes, nothing is written. Credits
that were given stay as they were given. A schedule's writer is whoever changed it last.$t$,
$t$Locks: the account. Writes: grant_schedules 0..1, accounts 0..1, admin_audit_logs 0..1.
Errors: actor errors, invalid_argument, grant_schedule_not_found, grant_schedule_over.$t$,
$t$SELECT *
FROM billing.change_grant_schedule(
    p_schedule_id => '...',
    p_amount => 30,
    p_reason => 'a greater plan');$t$),
        ('charge_items',
$t$Charges a list of items. Every charge goes through here but the plain case of
billing.create_charge. Items of one account are decided in the order of the list. An
item's outcome is one of these: 'created'; 'replayed' or 'conflict', with the first
charge's row, when its idempotency key was used before by the same or by another request
(a merged account's keys are still those of its identity); the slug of the refusal;
'busy', only with p_wait false, when another transaction holds the account. A refused item
writes nothing but the profile update it carries and, where an account was found, its part
in a row of refused_charges. With p_wait false the call never waits for an account. With
p_wait true it waits for one account at a time and holds no other meanwhile. Where caps
apply, the call holds what they have used to its end, so that all calls together never
exceed a hard cap.$t$,
$t$Locks: the accounts of billing_data.accounts_to_charge, in a statement of its own, so that
the next statement sees every charge committed before; then cap_usage of the caps that
apply, in the order of the caps. Writes: accounts, 1 per changed account; charges, 1 per
created item; refused_charges, 1 per account, key and reason refused; cap_usage, 1 per cap
that applies; outbox, 1 per alert and endpoint. Errors: actor_required, actor_not_allowed,
invalid_argument, lock_not_available when an account or a cap stays held, and
serialization_failure when accounts were merged at this moment; all else is an outcome.$t$,
$t$SELECT *
FROM billing.charge_items(
    p_items =>
    ARRAY[jsonb_populate_record(NULL::billing.charge_item,
    '{"oauth_provider": "oauth:google",
    "external_id": "1", "amount_minor": 1,
    "currency": "USD", "description": "one
    use"}')]);$t$),
        ('charge_items_once',
$t$Makes the charges of one request, in their order, and records the outcomes under
p_idempotency_key for this API key and every key of its chain of rotations. The same
request again returns the first outcomes (replayed true) and charges nothing; another
request under the same key is refused. All items name one API key. p_batch_fingerprint is
a digest of the request that does not depend on the API key and leaves absent fields out;
p_request_fingerprint depends on the key, for servers of releases that know no other.
Everything is one transaction. While an account is held, the call waits for it and holds
no other; with p_wait false, every item's outcome is 'busy' after a moment, and nothing is
recorded.$t$,
$t$Locks: as billing.charge_items, then the batch_requests row. Writes: batch_requests 0..1,
and as billing.charge_items. Errors: actor and key errors, invalid_argument,
idempotency_key_reused, and lock_not_available when an account stays held; all else is an
item's outcome.$t$,
$t$SELECT *
FROM billing.charge_items_once(
    p_idempotency_key => 'batch-1',
    p_request_fingerprint => decode('00', 'hex'),
    p_items => ..., ...);$t$),
        ('check_and_hold',
$t$Whether a user may go on with work that may use up to p_amount_minor: checks, as
billing.check_credit does, and makes a hold in the same transaction. Where the hold cannot
be made, has_credit is false, reason says why, and nothing is held; a hold that its
idempotency key made before counts as made. credits_remaining and free_uses_remaining are
what is available beside the hold. hold.outcome is that of billing.hold_items.$t$,
$t$Locks and writes: as billing.check_items, then as billing.hold_items. Errors: actor and
key errors, invalid_argument, and other refusals of billing.hold_items. A conflict of the
idempotency key, too few credits, a suspended or closed account and a cap are outcomes,
not errors.$t$,
$t$SELECT *
FROM billing.check_and_hold(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_amount_minor => 5);$t$),
        ('check_credit',
$t$May this user go on? The plain case is decided here by plain statements; anything else
goes to billing.check_items as a list of one, and a refusal is raised as an error. With
p_only_plain, a case that is not plain returns no row and does nothing.$t$,
$t$Locks and writes: as billing.check_items. Errors: actor and key errors, invalid_argument.
A denial is an answer, not an error.$t$,
$t$SELECT *
FROM billing.check_credit(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1');$t$),
        ('check_credits',
$t$As billing.check_items, with one array for each field.$t$,
$t$Locks, writes and errors: as billing.check_items.$t$,
$t$SELECT *
FROM billing.check_credits(
    p_oauth_providers => ARRAY['oauth:google'],
    p_external_ids => ARRAY['1']);$t$),
        ('check_items',
$t$Checks a list of items. Every check goes through here but the plain case of
billing.check_credit. An item's outcome is 'checked', the slug of the refusal, or, only
with p_wait false, 'busy', when another transaction holds the account or identity that the
item would change. One item's refusal does not affect the others. A profile update needs
billing:write: from a key without it the update is ignored. Locks, per item: the account,
only where its profile changes (in id order); for a new account, the identity's index
entry.$t$,
$t$Writes: accounts (new ones, profiles); credit_checks, 1 per checked item. The commit is
asynchronous when only audit rows were written. Errors: actor_required, actor_not_allowed,
invalid_argument; all else is an outcome.$t$,
$t$SELECT *
FROM billing.check_items(
    p_items =>
    ARRAY[jsonb_populate_record(NULL::billing.check_item,
    '{"oauth_provider": "oauth:google",
    "external_id": "1"}')]);$t$),
        ('claim_deliveries',
$t$Claims deliveries that are due, up to p_most for each endpoint that is switched on and is
not one of p_busy, for a minute. The caller sends each and records the result. The commit
is asynchronous: a claim that a crash loses is made again. No actor is needed: the servers
call it by themselves.$t$,
$t$Locks: the rows it claims; held ones are left out. Writes: outbox 1 per claimed row.
Errors: invalid_argument.$t$,
$t$SELECT *
FROM billing.claim_deliveries(
    p_most => 10);$t$),
        ('claim_top_ups',
$t$Begins attempts for accounts that need a top-up, and hands out up to p_limit attempts to
work on: new ones, and those whose server has recorded nothing for a minute. Each belongs
to the caller for a minute. payment_id is that of the payment that was recorded for it,
NULL when there is none. Servers call it every second. Where no account needs a top-up it
only reads: as many rows as there are top-ups in force.$t$,
$t$Locks: the top-ups and the attempts; those that another transaction holds are left out.
Writes: purchases 0..n, top_up_attempts 0..n, top_ups 0..n, outbox 0..n. Errors:
invalid_argument.$t$,
$t$SELECT * FROM billing.claim_top_ups(p_limit => 8);$t$),
        ('continue_verification',
$t$Verifies one range of the newest run that no other session is verifying, as
billing.verify_ledger does, and keeps what it found. Returns what was checked in it:
accounts, entries and problems. No row means that no range is left. Several sessions can
work side by side.$t$,
$t$Locks: the range. Writes: verification_ranges 1. Errors: actor_required.$t$,
$t$SELECT * FROM billing.continue_verification();$t$),
        ('count_audit_log',
$t$How many entries billing.list_audit_log lists for the same filters: at most p_most, and
is_more says that there are more. It stops at p_most, so that it is quick however long the
log is.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.count_audit_log(
    p_action => 'account',
    p_from => '2026-11-01');$t$),
        ('count_caps',
$t$How many caps billing.list_caps lists for the same filters: at most p_most, and is_more
says that there are more. It stops at p_most.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.count_caps(
    p_scope => 'api_key');$t$),
        ('count_deliveries',
$t$How many deliveries billing.list_deliveries lists for the same filters: at most p_most,
and is_more says that there are more. It stops at p_most.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.count_deliveries(
    p_state => 'failed');$t$),
        ('count_payment_events',
$t$How many events billing.list_payment_events lists for the same filters: at most p_most,
and is_more says that there are more. It stops at p_most, so that it is quick however many
there are.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.count_payment_events(
    p_from => '2026-11-01');$t$),
        ('count_payment_problems',
$t$How many rows billing.list_payment_problems lists: at most p_most, and is_more says that
there are more. It stops at p_most.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT * FROM billing.count_payment_problems();$t$),
        ('create_account',
$t$Creates the account of an identity, or returns the existing one unchanged. With
p_idempotency_key, the first answer is recorded for this account and key: the same request
gets that answer again (replayed true), and another request is refused.$t$,
$t$Locks: the identity's index entry, then account_requests (account, key). Writes: accounts
0..1, account_requests 0..1. Errors: actor and key errors, invalid_argument,
idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.create_account(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1');$t$),
        ('create_api_key',
$t$Creates a key from the prefix and hash of a secret. With p_key_digest (the secret's
SHA-256), agents' calls name the key by the first 128 bits of the digest and by nothing
else; without it, by the key's id. The audit log's reason is p_reason, or else the
description.$t$,
$t$Writes: api_keys 1, admin_audit_logs 1. Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.create_api_key(
    p_name => 'agent',
    p_key_prefix => '...',
    p_key_hash => '...');$t$),
        ('create_charge',
$t$Charges one use. The plain case is decided here by plain statements; anything else goes to
billing.charge_items as a list of one. Any outcome but a new charge is raised as an error,
which also undoes the profile update the call carries and the record of the refusal. With
p_only_plain, a case that is not plain returns no row and does nothing.$t$,
$t$Locks and writes: as billing.charge_items, in the same order. Errors: actor and key
errors, invalid_argument, charge_already_exists, account_not_found, account_suspended,
account_closed, charge_currency_mismatch, insufficient_credits, account_cap_reached,
cap_reached.$t$,
$t$SELECT *
FROM billing.create_charge(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_amount_minor => 1,
    p_description => 'one use');$t$),
        ('create_charges',
$t$As billing.charge_items, with one array for each field.$t$,
$t$Locks, writes and errors: as billing.charge_items.$t$,
$t$SELECT *
FROM billing.create_charges(
    p_oauth_providers => ARRAY['oauth:google'],
    p_external_ids => ARRAY['1'],
    p_amounts_minor => ARRAY[1],
    p_currencies => ARRAY['USD'],
    p_descriptions => ARRAY['one use']);$t$),
        ('create_charges_once',
$t$As billing.charge_items_once, with one array for each field.$t$,
$t$Locks, writes and errors: as billing.charge_items_once.$t$,
$t$SELECT *
FROM billing.create_charges_once(
    p_idempotency_key => 'batch-1',
    p_request_fingerprint => decode('00', 'hex'),
    p_api_key_id => '...',
    p_oauth_providers => ARRAY['oauth:google'],
    p_external_ids => ARRAY['1'],
    p_amounts_minor => ARRAY[1], ...);$t$),
        ('create_check_partitions',
$t$Makes the monthly partitions of the check audit from this month (UTC) to p_months ahead,
and moves the checks of these months there from the default partition. It leaves a month
as it is when a partition holds all or part of it already, under whatever name. It also
leaves a month of which the default partition holds more than p_most_rows checks (NULL: no
limit), for callers whose statements must be short. Checks go on being written meanwhile.
The old rows are moved without a lock on the default partition, in this transaction, so
that every reader sees each row once. The default partition is locked only while the rows
written since then are moved and while PostgreSQL scans what stays in it (a tenth of a
second per million rows). For a month that has begun, everyone is kept out of the whole
table for that moment: a writer that had already chosen the default partition would be
refused by it afterwards, and a reader that knew the partitions of before would miss the
rows.$t$,
$t$Locks: the table, SHARE UPDATE EXCLUSIVE (one caller at a time); for new months only, the
table, ACCESS EXCLUSIVE, and the default partition. Errors: invalid_argument;
lock_not_available (55P03), and then nothing was changed.$t$,
$t$SELECT *
FROM billing.create_check_partitions(
    p_months => 3);$t$),
        ('create_credit',
$t$Adds credits as billing.record_credit does, and raises every outcome but a new credit as
an error.$t$,
$t$Errors: actor and key errors, invalid_argument, credit_already_exists, account_not_found,
credit_currency_mismatch, balance_overflow, payment_already_credited,
payment_of_another_account.$t$,
$t$SELECT *
FROM billing.create_credit(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_amount_minor => 20);$t$),
        ('create_hold',
$t$Holds credits of an account, or one free use while it has one, for p_expires_in_seconds (1
to 86400). Any outcome but a new hold, or the same hold again under its idempotency key,
is raised as an error. With p_dry_run nothing is held, and hold_id is NULL.$t$,
$t$Locks and writes: as billing.hold_items. Errors: actor and key errors, invalid_argument,
account_not_found, account_suspended, account_closed, charge_currency_mismatch,
insufficient_credits, account_cap_reached, cap_reached, hold_already_exists.$t$,
$t$SELECT *
FROM billing.create_hold(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_amount_minor => 5);$t$),
        ('create_sign_in_link',
$t$Makes a link that signs a staff member in once, within ten minutes. `ciris-billing dev`,
which has no identity provider, signs in by it. Only a DBA may call it.$t$,
$t$Writes: sign_in_tickets 1, admin_audit_logs 1. Errors: actor_required, invalid_argument,
admin_not_found.$t$,
$t$SELECT billing.create_sign_in_link(
    p_email => 'ada@example.com',
    p_ticket_hash => sha256('random'));$t$),
        ('create_sign_in_ticket',
$t$Issues a single-use ticket, valid for ten minutes: the state of a sign-in under way.
Expired tickets are deleted.$t$,
$t$Writes: sign_in_tickets. Errors: invalid_argument.$t$,
$t$SELECT billing.create_sign_in_ticket(
    p_ticket_hash => sha256('random'));$t$),
        ('create_staff_token',
$t$Registers a bearer token for 24 hours, for the staff member whom a DBA names or for the
one whose browser session asks. A token cannot be used to register another, so that access
ends with its 24 hours.$t$,
$t$Writes: admin_sessions 1, admin_audit_logs 1. Errors: actor errors, invalid_argument,
admin_not_found.$t$,
$t$SELECT *
FROM billing.create_staff_token(
    p_token_hash => sha256('random'),
    p_email => 'ada@example.com');$t$),
        ('create_webhook_endpoint',
$t$Makes an endpoint. It is off until it has been tried. p_secret comes encrypted; an empty
list of kinds stands for all kinds.$t$,
$t$Locks: the settings row, so that the count is right. Writes: webhook_endpoints 1,
admin_audit_logs 1. Errors: actor errors, invalid_argument.$t$,
$t$SELECT billing.create_webhook_endpoint(
    p_name => 'shop',
    p_url => 'https://example.com/billing',
    p_reason => 'the shop tops up',
    p_secret => '{"encrypted": "as the server makes
    it", "masked": "whsec_…wxyz"}');$t$),
        ('default_payment_provider',
$t$The provider that is used where none is named: the first one. With p_to_sell it is the
first that is offered, active and has its credential, if there is one.$t$,
$t$$t$,
$t$SELECT billing.default_payment_provider();$t$),
        ('delete_cap',
$t$Deletes a cap: from the next request on it refuses nothing. Returns the cap as it was.$t$,
$t$Locks: the cap's row. Writes: caps 1, cap_usage of its windows, admin_audit_logs 1.
Errors: actor errors, invalid_argument, cap_not_found.$t$,
$t$SELECT *
FROM billing.delete_cap(
    p_cap_id => '...',
    p_reason => 'no longer needed');$t$),
        ('delete_deliveries',
$t$Retention of the outbox: deletes up to p_rows deliveries that were settled before
p_before, and those of endpoints that are gone. Returns how many deliveries were deleted.$t$,
$t$Locks: none that a charge waits for. Writes: admin_audit_logs 1 when it deleted. Errors:
actor_required, invalid_argument.$t$,
$t$SELECT billing.delete_deliveries(
    p_before => now() - interval '13 months');$t$),
        ('delete_refused_charges',
$t$Retention of refused charges: deletes up to p_rows rows from before p_before, and returns
how many it deleted. Call it again until it returns fewer than p_rows.$t$,
$t$Locks: none that a charge waits for. Writes: admin_audit_logs 1 when it deleted. Errors:
actor_required, invalid_argument.$t$,
$t$SELECT billing.delete_refused_charges(
    p_before => now() - interval '13 months');$t$),
        ('delete_webhook_endpoint',
$t$Deletes an endpoint that is switched off, and all deliveries to it.$t$,
$t$Locks: the endpoint. Writes: webhook_endpoints 1, outbox 0..n, admin_audit_logs 1. Errors:
actor errors, invalid_argument, webhook_endpoint_not_found, webhook_endpoint_in_use.$t$,
$t$SELECT billing.delete_webhook_endpoint(
    p_endpoint_id => '...',
    p_reason => 'gone');$t$),
        ('describe_money',
$t$Writes an amount in Stripe's minor units as people write it, with its currency, or, with
p_with_currency false, as the number alone. Changes nothing.$t$,
$t$$t$,
$t$SELECT billing.describe_money(
    p_amount_minor => 500,
    p_currency => 'USD');$t$),
        ('describe_openings',
$t$What lies before the books begin, which billing.verify_ledger only counts: by reason, how
many accounts, their entries of the old service, and what they had when their books were
opened. agrees: the entries led to that balance; other_balance: they ended at another one
(another unit, or credits given at creation); no_chain: they do not continue each other;
no_entries: there were none. reason is NULL for books that were opened otherwise.$t$,
$t$Errors: actor_required.$t$,
$t$SELECT * FROM billing.describe_openings();$t$),
        ('describe_price',
$t$Writes a price as people write it, before it is set. Refuses what billing.set_pricing
would refuse.$t$,
$t$Errors: invalid_argument.$t$,
$t$SELECT billing.describe_price(
    p_pack_price_minor => 500,
    p_pack_currency => 'USD');$t$),
        ('drop_check_partitions',
$t$Retention: deletes up to p_rows checks before p_before from the default partition, and
drops the partitions that end before it. Returns the names of those it dropped. It also
returns credit_checks_default when it deleted rows there; then it must be called again.
Checks go on being written meanwhile.$t$,
$t$Locks: the table, SHARE UPDATE EXCLUSIVE, and exclusively for the moment of dropping.
Writes: admin_audit_logs 1 when it deleted. Errors: actor_required, invalid_argument;
lock_not_available (55P03), and then nothing was changed.$t$,
$t$SELECT *
FROM billing.drop_check_partitions(
    p_before => now() - interval '13 months');$t$),
        ('end_grant_schedule',
$t$Ends a schedule of grants. What it gave stays.$t$,
$t$Locks: the account. Writes: grant_schedules 1, accounts 1, admin_audit_logs 1. Errors:
actor errors, invalid_argument, grant_schedule_not_found, grant_schedule_over.$t$,
$t$SELECT *
FROM billing.end_grant_schedule(
    p_schedule_id => '...',
    p_reason => 'the plan is over');$t$),
        ('end_session',
$t$Ends a session. Returns true when there was one.$t$,
$t$Writes: admin_sessions 0..1, admin_audit_logs 0..1.$t$,
$t$SELECT billing.end_session(
    p_session_hash => sha256('random'));$t$),
        ('end_staff_sessions',
$t$Ends every session and bearer token of a staff member, at once and everywhere: for a lost
laptop or a leaked token. Staff may end their own; only an administrator or a DBA may end
those of others.$t$,
$t$Locks: the staff member. Writes: admin_sessions, admin_audit_logs 1. Errors: actor errors,
invalid_argument, admin_not_found.$t$,
$t$SELECT billing.end_staff_sessions(
    p_email => 'ada@example.com',
    p_reason => 'laptop lost');$t$),
        ('end_top_up',
$t$Ends the top-up of an account at once: the person withdraws the consent through an agent,
or staff or a DBA end it with a reason. Nothing is charged from then on. A payment that
the provider is charging at this moment is still credited. The account is named by its id
or its identity. changed is false when nothing was in force.$t$,
$t$Locks: the account, its top-up. Writes: top_ups 0..1, admin_audit_logs 0..1 for staff and
DBAs. Errors: actor and key errors, invalid_argument, account_not_found, top_up_not_found.$t$,
$t$SELECT *
FROM billing.end_top_up(
    p_account_id => '...',
    p_reason => 'asked by e-mail');$t$),
        ('erase_personal_data',
$t$Erases the data of a person everywhere: of an account and of those that were merged into
it. The identity is replaced, the account is closed; checks, refused charges, alerts and
remembered requests are deleted; descriptions, notes, origins, what payment providers sent
and what the audit log says of the person get an erased form. Amounts, dates, the ledger,
its seals and the ids of payments stay, and the books go on agreeing. The identity may
come again, as a new account. With paid credits left or open payment problems the account
is refused (account_in_use), unless p_force: then an entry gives the credits up, and the
problems stay open, without the data. A payment that arrives later is credited to the
erased account and listed as a problem (paid_after_erasure), so that a person refunds it.
A check or purchase that was under way may leave a row behind: billing.maintenance erases
it, and so does another call. A call for an account that was erased before erases what is
new. With p_dry_run true, everything is done and undone; the answer is what would be
erased, and obstacle what would be refused. It reads payment events, the audit log and
lists of charges as a whole. Copies of the database (backups, exports) keep the data until
they are deleted.$t$,
$t$Locks: the events, the accounts in id order. Writes: all tables named in the answer,
admin_audit_logs 1. Errors: actor errors, invalid_argument, account_not_found,
account_in_use, lock_not_available when an account stays held, serialization_failure when
accounts were merged at this moment.$t$,
$t$SELECT *
FROM billing.erase_personal_data(
    p_account_id => '...',
    p_reason => 'asked by letter',
    p_dry_run => true);$t$),
        ('explain_account',
$t$Why an account is as it is, in words: a row for each thing that keeps its user from going
on, or that a person must decide, and what to do about it; no row when there is none. kind
is, in this order: erased; suspended or closed, with since, who did it and their reason;
payment_problem, one row for each open problem; out_of_credits; and denied, the newest
refusal up to p_at (NULL: now) as billing.explain_denial tells it, with the agent that
asked. is_over is true for a denial of what would be accepted now. credits_needed is how
many credits a denied request lacks now.$t$,
$t$Errors: actor errors, invalid_argument, account_not_found.$t$,
$t$SELECT x.sentence, x.what_helps
FROM billing.explain_account(
    p_account_id => '...') AS x;$t$),
        ('explain_denial',
$t$Why an account was refused something: the denied check or refused charge that is nearest
to p_at (NULL: now) and not after it, as columns and as a sentence. It says what was
asked, by which API key or database role, what the account had then, what would have been
enough, and what to do now. All refusals of an account, key and reason within a minute are
one refusal here (refusals is how many), with the amounts of the last of them. Refusals of
accounts that are merged into this one count, too. Where nothing was refused, the one row
has only a sentence. A charge that a DBA makes with billing.create_charge raises its
refusal as an error, and an error leaves no row, so it is not found here. Refused charges
over HTTP, and all others that go through billing.charge_items, are found.$t$,
$t$Errors: actor errors, invalid_argument, account_not_found.$t$,
$t$SELECT x.sentence, x.what_helps
FROM billing.explain_denial(
    p_account_id => '...',
    p_at => now()) AS x;$t$),
        ('export_personal_data',
$t$Everything that is stored of a person, as one JSON document: tables has the rows of each
table that may have any. The accounts that were merged into this one are a part of it. The
staff members who acted are left out, and so is what follows from other rows. It reads the
payment events and the audit log as a whole, which takes a while where they are large.$t$,
$t$Writes: admin_audit_logs 1. Errors: actor errors, account_not_found.$t$,
$t$SELECT billing.export_personal_data(
    p_account_id => '...');$t$),
        ('extend_hold',
$t$Lets a hold that is open end later: p_expires_in_seconds from now (1 to 86400). A hold
never ends earlier because of this. A hold that is over cannot be extended: make another
one.$t$,
$t$Locks: the account. Writes: holds 0..1, hold_changes 0..1, accounts 0..1. Errors: actor
and key errors, invalid_argument, hold_not_found, hold_settled, hold_expired.$t$,
$t$SELECT *
FROM billing.extend_hold(
    p_hold_id => '...',
    p_expires_in_seconds => 900);$t$),
        ('find_account',
$t$Finds one account by what a person has: its id (or that of an account that was merged into
it), its provider and external id with a colon between them, or its e-mail address, if it
is the only account that has it. Returns the account's id.$t$,
$t$Errors: actor errors, invalid_argument (several accounts match), account_not_found.$t$,
$t$SELECT billing.find_account('oauth:google:1');$t$),
        ('find_api_key',
$t$Returns the hash of the key with these first twenty characters, against which the web tier
verifies a presented secret. Also returns whether calls name the key by its secret's
SHA-256; the SHA-256 itself is never returned. This is the only way to read a hash, and
only one prefix at a time. There is no row when no key has this prefix or the key is
revoked.$t$,
$t$$t$,
$t$SELECT *
FROM billing.find_api_key(
    p_key_prefix => 'cbk_live_...');$t$),
        ('find_entry',
$t$Who wrote an entry of the ledger, when and why: the charge or credit with this id, its
account, its writer and what its writer said, and for what staff or a DBA did also the row
of the audit log and the login behind it.$t$,
$t$Errors: actor errors, entry_not_found.$t$,
$t$SELECT *
FROM billing.find_entry(
    p_transaction_id => '...');$t$),
        ('find_purchase',
$t$Reads what is known of a payment, with the configuration needed to ask the provider about
it. There is always one row. purchase_id is NULL for a payment that is not known here; it
may still turn out to be one of the old service, and uses are then those of the current
pack. Where p_provider is NULL, the payment's id tells its provider.$t$,
$t$Errors: actor and key errors, payment_provider_not_configured.$t$,
$t$SELECT *
FROM billing.find_purchase(
    p_payment_id => 'pi_1');$t$),
        ('finish_refund',
$t$Records how the provider answered a refund: p_return_id, the refund's id there, or
p_failure, why it was refused. The first answer stays. A refund that was refused can be
asked for anew.$t$,
$t$Locks: the payment_refunds row. Writes: payment_refunds 0..1, admin_audit_logs 0..1.
Errors: actor errors, invalid_argument, refund_not_found.$t$,
$t$SELECT *
FROM billing.finish_refund(
    p_refund_id => '...',
    p_return_id => 're_1');$t$),
        ('get_account',
$t$Reads one account. held is what open holds keep of paid_credits; NULL when there is none.$t$,
$t$Errors: actor and key errors, account_not_found.$t$,
$t$SELECT *
FROM billing.get_account(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1');$t$),
        ('get_account_by_id',
$t$Reads one account with its totals, by its id or by the id of an account that was merged
into it.$t$,
$t$Errors: actor errors, account_not_found.$t$,
$t$SELECT *
FROM billing.get_account_by_id(
    p_account_id => '...');$t$),
        ('get_account_holders',
$t$Who holds these accounts, named by their identities or by holds of theirs. NULL: all are
free; 'others' when a session that is not the service's holds one; otherwise the numbers
of the service's transactions that hold them. The service's sessions are recognized by
their application_name, whichever server they belong to. Their calls are short and take
turns, so a caller that waits for them gets through. A caller that waits for another
session's transaction, or for a long time for one and the same transaction, may have to be
refused. An account that is being created right now is not visible yet and counts as held
by others.$t$,
$t$Locks: the accounts that are free, to the end of the transaction. It waits 50 ms at most,
where a row was updated meanwhile. Writes: nothing. Errors: 55P03 when it would have to
wait longer.$t$,
$t$SELECT billing.get_account_holders(
    p_oauth_providers => ARRAY['oauth:google'],
    p_external_ids => ARRAY['1']);$t$),
        ('get_admin',
$t$Reads one active staff member by e-mail. Not for the web tier, because the call tells who
is staff.$t$,
$t$Errors: admin_not_found.$t$,
$t$SELECT *
FROM billing.get_admin(
    p_email => 'ada@example.com');$t$),
        ('get_figures',
$t$The figures of a period of UTC days, from p_from up to and without p_to (by default this
month), as one row. users counts each account that was charged once; accounts are those
made.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.get_figures(
    p_from => '2026-11-01',
    p_to => '2026-12-01');$t$),
        ('get_hold',
$t$A hold, as it is now.$t$,
$t$Errors: actor and key errors, hold_not_found.$t$,
$t$SELECT * FROM billing.get_hold(p_hold_id => '...');$t$),
        ('get_overview',
$t$The service at a glance. The counts of the last 24 hours and 7 days are of whole slots of
five minutes. unique_users_30d counts the users of today and the 29 days before, each
once.$t$,
$t$Errors: actor errors.$t$,
$t$SELECT * FROM billing.get_overview();$t$),
        ('get_proof',
$t$What is proven: the day up to which everything is sealed, that day's head, and how many
entries are sealed; and the newest proof of the books: when it began and ended (NULL while
it is not finished), what it checked and how many problems it found, with the first of
them. Columns are NULL where there is none. No actor is needed: the web tier asks for its
metrics.$t$,
$t$Errors: those of p_session_hash.$t$,
$t$SELECT * FROM billing.get_proof();$t$),
        ('get_provider_config',
$t$Reads a provider's configuration with encrypted secrets, for a caller that holds the
encryption key. No API key is needed, because the server needs the secrets to find out who
sends a webhook. No row when there is none.$t$,
$t$$t$,
$t$SELECT *
FROM billing.get_provider_config(
    p_provider_type => 'stripe');$t$),
        ('get_schema_version',
$t$The newest migration step of this database, for health checks. A server compares it with
the newest step it knows.$t$,
$t$$t$,
$t$SELECT billing.get_schema_version();$t$),
        ('get_session',
$t$The owner of this session or bearer token. There is no row when it does not exist, has
expired or was ended. is_active is false for a token whose owner is deactivated; such a
token allows nothing.$t$,
$t$$t$,
$t$SELECT *
FROM billing.get_session(
    p_session_hash => sha256('random'));$t$),
        ('get_settings',
$t$Reads the business settings.$t$,
$t$$t$,
$t$SELECT * FROM billing.get_settings();$t$),
        ('get_top_up',
$t$Reads the newest top-up of an account, named by its id or its identity: what the person
agreed to, what was spent in this UTC month, what went wrong last, and the newest attempt.
status is on or off. uses are the credits that one top-up brings now.$t$,
$t$Errors: actor and key errors, invalid_argument, account_not_found, top_up_not_found.$t$,
$t$SELECT *
FROM billing.get_top_up(
    p_account_id => '...');$t$),
        ('get_webhook_endpoint',
$t$Reads an endpoint with the encrypted secrets that sign now, to try it.$t$,
$t$Errors: actor errors, webhook_endpoint_not_found.$t$,
$t$SELECT *
FROM billing.get_webhook_endpoint(
    p_endpoint_id => '...');$t$),
        ('grant_credits',
$t$Gives credits by a list in CSV. Its first line names the columns: account_id, or
oauth_provider and external_id; and amount, which is above 0; and, if the credits end,
expires_at: a UTC day, at whose beginning they do, or a time like 2026-12-31T12:00:00Z. A
line that is bad, or is refused, does not stop the others: each has its outcome, which is
granted, replayed (it was granted before), would_grant with p_dry_run, or why it was not.
A line is granted once for its account and p_key_prefix, as often as the same list, or a
corrected one, is given; the second line of an account is another grant. A dry run tells
each balance as if the line were alone. Up to 50,000 lines; for more, and for a commit
after each thousand: `ciris-billing accounts grant`.$t$,
$t$Locks: the accounts, in id order. Writes: accounts 1, credits 1, admin_audit_logs 1 for
each line that is granted. Errors: actor_required, invalid_argument; lock_not_available
(55P03) when an account stays held, and then nothing was done.$t$,
$t$SELECT *
FROM billing.grant_credits(
    p_reason => 'an outage',
    p_key_prefix => 'outage',
    p_csv => concat_ws(chr(10),
    'oauth_provider,external_id,amount',
    'oauth:google,1,5'));$t$),
        ('help',
$t$Lists what this login can use, by task; with words, what these words find ('refund', 'why
denied'); with the name of a function or view, all about it: arguments, refusals, an
example. The list is made from the catalogue, the tasks and words from sql/topics.sql, the
rest from the comments in sql/. Lines fit in a window of 100 columns.$t$,
$t$$t$,
$t$SELECT * FROM billing.help('refund');$t$),
        ('hold_items',
$t$Holds credits for a list of items. An item holds one free use instead while the account
has one. Items of one account are decided in the order of the list. An item's outcome is
one of these: 'created'; 'replayed' or 'conflict', with the first hold's row, when its
idempotency key was used before by the same or by another request; the slug of the
refusal; 'busy', only with p_wait false, when another transaction holds the account. What
is held is not available to anything else from that moment on, until it is settled or its
time is over. With p_dry_run nothing is held.$t$,
$t$Locks: the accounts, in id order, then cap_usage of the caps that apply, by cap. Writes:
holds and accounts 1 for each created item, cap_usage 1 for each cap that applies,
refused_charges 1 for each account, key and reason refused. Errors: actor_required,
actor_not_allowed, invalid_argument, lock_not_available when an account stays held, and
serialization_failure when accounts were merged at this moment; all else is an outcome.$t$,
$t$SELECT *
FROM billing.hold_items(
    p_items =>
    ARRAY[jsonb_populate_record(NULL::billing.hold_item,
    '{"oauth_provider": "oauth:google",
    "external_id": "1", "amount_minor": 5,
    "expires_in_seconds": 900, "description": "one
    use"}')]);$t$),
        ('invite_admin',
$t$Invites an administrator again, for seven days, when the last invitation has expired or
when they have another account of the identity provider now. Their sessions and tokens
end.$t$,
$t$Locks: the staff member. Writes: admin_users 1, admin_sessions, admin_audit_logs 1.
Errors: actor errors, invalid_argument, admin_not_found (also for somebody who is not an
active administrator: viewers need no invitation).$t$,
$t$SELECT billing.invite_admin(
    p_email => 'ada@example.com',
    p_reason => 'a new account');$t$),
        ('list_account_days',
$t$How often an account was charged, and how many of its paid credits were used, by UTC day:
the p_days days up to today, oldest first. It does not read the charges. The places of two
midnights in the ledger tell how many entries a day has, and their balances tell what was
used, together with the credits of the day. So it costs the same for an account of a
million charges. Days before the books of an account that was taken over begin have no
figures.$t$,
$t$Errors: actor errors, invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM billing.list_account_days(
    p_account_id =>
    billing.find_account('oauth:google:1'),
    p_days => 7);$t$),
        ('list_accounts',
$t$Lists accounts. p_search finds the accounts whose e-mail address or external id begins
with it (p_match 'prefix', by index) or contains it (p_match 'substring', reads every
account), whatever the case and the Unicode normal form. A UUID finds the account with
this id or this external id, and the account that the id leads to. p_from and p_to: the
UTC days on which they were made, both included. p_sort: newest, oldest, email, credits,
uses; ties are ordered by id, and p_reverse turns the order round. With p_count true,
total_count counts all accounts that match, and an empty page is one row with only
total_count; with p_count false, total_count is NULL.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_accounts(
    p_search => 'ada@',
    p_limit => 10);$t$),
        ('list_admins',
$t$Lists staff by e-mail.$t$,
$t$Errors: actor errors.$t$,
$t$SELECT * FROM billing.list_admins();$t$),
        ('list_allocations',
$t$Which credits paid for charges: a row for each charge and credit, the newest charge first.
It is about one charge (p_charge_id), or about p_limit paid charges of an account, those
before the entry p_before where that is given. What was paid of the pool follows from the
ledger as in billing.list_lots. A free use is paid by no credit. It reads the account's
entries up to there.$t$,
$t$Errors: actor errors, invalid_argument, account_not_found, charge_not_found.$t$,
$t$SELECT *
FROM billing.list_allocations(
    p_account_id => '...');$t$),
        ('list_api_keys',
$t$Lists keys, newest first, including revoked ones, without their hashes.$t$,
$t$Errors: actor errors.$t$,
$t$SELECT *
FROM billing.list_api_keys(
    p_status => 'active');$t$),
        ('list_audit_log',
$t$Lists the audit log. The filters are who acted (a staff member's e-mail, a database role,
or the database login of the session), what was done (an action; the word before the dot
alone finds every action of that kind), to which thing, and the days (UTC, both included);
p_entry_id finds one entry. With p_reverse, the oldest come first. account_id is the
account that an entry is about, if any, and account_name its address or external id;
other_account_id and other_account_name are those of the other side of a transfer or a
merge.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_audit_log(
    p_action => 'account',
    p_limit => 10);$t$),
        ('list_book_problems',
$t$What the newest proof of the books found, with at most 1000 problems of each range.$t$,
$t$Errors: actor_required.$t$,
$t$SELECT * FROM billing.list_book_problems();$t$),
        ('list_caps',
$t$Lists caps with what their windows have used so far, what is left, and when the windows
end (resets_at). A cap counts from when it was set (counts_from). An API key's cap names
the first key of its chain of rotations; an account's cap goes with it where it is merged.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_caps(
    p_scope => 'api_key');$t$),
        ('list_checks',
$t$An account's checks, newest first, with why they were denied; those of accounts that were
merged into it too.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_checks(
    p_account_id => '...');$t$),
        ('list_daily_figures',
$t$Figures by UTC day, oldest first, with p_to as the last, or else today: p_days + 1 rows,
including days on which nothing happened.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_daily_figures(
    p_days => 30);$t$),
        ('list_deliveries',
$t$Lists deliveries, newest first: only those of an endpoint, state, kind or account where
one is named, and only those whose alerts were raised on the UTC days p_from to p_to, both
included.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_deliveries(
    p_state => 'failed');$t$),
        ('list_grant_schedules',
$t$The schedules of grants of an account, or of all accounts, newest first: those that have
still something to give (state active or paused), and with p_all also those that ended.
grants is how many it gave so far. Credits that take effect at a later time are among them
(repeat once).$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_grant_schedules(
    p_account_id => '...');$t$),
        ('list_holds',
$t$An account's holds, newest first, of one state (p_state: open, captured, released,
expired) or of all, also those of accounts that were merged into it. p_after is the id of
the last hold of the page before. An API key sees its own holds and those of its chain of
rotations.$t$,
$t$Errors: actor and key errors, invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM billing.list_holds(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_state => 'open');$t$),
        ('list_hourly_figures',
$t$Figures by hour of one UTC day, by default today: 24 rows, oldest first, hours in which
nothing happened and those to come included. unique_users counts each account that was
charged once an hour; for this the charges of the day are read.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_hourly_figures(
    p_day => '2026-11-22');$t$),
        ('list_lots',
$t$An account's credits, each with its source and with what is left of it, in the order in
which they are spent; with p_all also those of which nothing is left. Credits of the usual
kind are one pool (in_pool): what is left of each follows from the ledger, the oldest
being spent first. Those that the account's books began with have no lot_id. left_minor
includes what open holds keep (held_minor); a lot that is over has nothing left, whether
that is booked or not. It reads all of the account's entries, unless p_pool is false,
which leaves the pool out.$t$,
$t$Errors: actor errors, invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM billing.list_lots(
    p_account_id => '...');$t$),
        ('list_merges',
$t$The merges of an account and of all that are merged with it, also those that were undone,
newest first. p_account_id may be any of these accounts. problem says why a merge cannot
be undone; it is NULL when it can.$t$,
$t$Errors: actor errors.$t$,
$t$SELECT *
FROM billing.list_merges(
    p_account_id => '...');$t$),
        ('list_money',
$t$The money of a period of UTC days, from p_from up to and without p_to (by default this
month), by currency: gross_minor is what purchases brought that were credited then;
refunded_minor what went back by refunds and disputes reported then and is away now.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_money(
    p_from => '2026-11-01',
    p_to => '2026-12-01');$t$),
        ('list_notes',
$t$The notes on an account and on those that were merged into it, newest first, with who
wrote them.$t$,
$t$Errors: actor errors, account_not_found.$t$,
$t$SELECT *
FROM
billing.list_notes(billing.find_account('oauth:google:1'));$t$),
        ('list_open_doors',
$t$Lists what PUBLIC may do in this database, and what our logins may use up, beyond their
need. Each row has the SQL statement that ends it. `ciris-billing migrate` runs the
statements that concern this database and its logins (is_ours), as far as its own login
may, and reports the rest. Only a superuser can revoke from PUBLIC the functions of
advisory locks, large objects and transaction numbers; with them, any login could fill the
lock table that all sessions of the cluster share. A limit or time-out that somebody has
set for a login is kept.$t$,
$t$Errors: actor_required.$t$,
$t$SELECT * FROM billing.list_open_doors();$t$),
        ('list_origins',
$t$Where the entries of a part of an account's ledger come from that another entry explains:
sides of transfers and merges, and reversals, each with what billing_data.origin_of_entry
says of it. The part is behind the ledger version p_after, up to p_through; the whole
ledger without them.$t$,
$t$Errors: actor errors, account_not_found.$t$,
$t$SELECT *
FROM billing.list_origins(
    p_account_id =>
    billing.find_account('oauth:google:1'));$t$),
        ('list_payment_events',
$t$Lists the payment provider's events, without their payloads. p_from and p_to: the UTC days
on which they came, both included. With p_reverse, the oldest come first.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_payment_events(
    p_limit => 10);$t$),
        ('list_payment_problems',
$t$Lists what a person must look at, newest first: events whose payment could not be credited
or taken back, returns of money for which no credits were left to take, reports of fraud,
and second credits for a payment.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT * FROM billing.list_payment_problems();$t$),
        ('list_payments',
$t$What is known here of a provider's payments, for reconciliation: of the payments named,
and of all that were credited since p_since. resolved is true when a person has dealt with
the payment. Where nothing was sold for it, nothing else is known of it (status
'resolved').$t$,
$t$Errors: actor_required.$t$,
$t$SELECT *
FROM billing.list_payments(
    p_payment_ids => '{pi_1}');$t$),
        ('list_provider_configs',
$t$Lists the payment providers with masked secrets.$t$,
$t$Errors: actor errors.$t$,
$t$SELECT * FROM billing.list_provider_configs();$t$),
        ('list_purchases',
$t$Lists purchases; those of an account with those of the accounts that were merged into it.
p_status: offered, pending, settled, or returned (some of its money went back). p_from and
p_to: the UTC days on which they were offered, both included; with p_days_of paid, those
on which they were paid. p_sort: newest, settled, price, uses; p_reverse turns the order
round. left_minor is what can still be refunded. livemode is what the provider's events
say, or else the mode of the stored key.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_purchases(
    p_status => 'settled',
    p_limit => 10);$t$),
        ('list_refunds',
$t$Lists how money of a payment went back, newest first: what staff asked for (refund_id),
what the provider reported (return_id), or both. state: asked (the provider has not
answered), refused, sent (the provider has it, and has not reported it yet), or what was
reported: inquiry, open, closed. asked_text is the amount that staff asked for, without
its currency.$t$,
$t$Errors: actor errors, payment_not_found.$t$,
$t$SELECT *
FROM billing.list_refunds(
    p_payment_id => 'pi_1');$t$),
        ('list_seal_heads',
$t$The heads of sealed days after a day, oldest first. Keep them elsewhere, and compare the
copy with them later.$t$,
$t$Errors: actor_required, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_seal_heads(
    p_after => current_date - 7);$t$),
        ('list_seals',
$t$The seals of a day, by account. Keep them with the day's head: where somebody made all
seals anew, the copy tells which entry is not as it was. leaves has 16 digits per entry.$t$,
$t$Errors: actor_required, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_seals(
    p_day => current_date - 1);$t$),
        ('list_timeline',
$t$An account's timeline, newest first: what agents asked (kind check), what was denied or
refused (denial), charges, credits, holds, purchases, and what staff and DBAs did to the
account or its payments (staff), each with its writer and reason. p_kinds chooses among
these: check has all checks, denial the denied checks and the refused charges. p_from and
p_to are UTC days, both included. An act that wrote an entry is shown with the entry
(audit_id), and has a row of its own only where credits are not shown. audit_thing is what
that audit row is about. Accounts that were merged into this one have their checks,
refusals, purchases and acts here; their entries are in their own statements
(billing.statement with p_follow => false). All refusals of a key and reason within a
minute are one row (times). The meaning of some columns depends on the row. what is
allowed or denied; refused; charge, free_use, or the type of a credit; the state of a
hold; offered, pending or settled; or the act. amount_minor is what a refused charge or a
hold asked for, or the price of a purchase; paid_credits and free_uses what the account
had then, the credits of a purchase, or what was captured of a hold; left_to_reverse how
much of an entry can still be reversed by staff. changes is what an act changed, with the
other account of a transfer or merge (other_account_id, other_account); of a side of a
transfer or a reversal, where it comes from (billing_data.origin_of_entry). p_row_id
begins with the charge, credit, hold or purchase of this id instead of the newest row.
Each row has the cursor of the page after its own; it is NULL on the last page. Rows that
are added meanwhile do not shift pages. A page costs the same wherever it is, and however
many rows the account has: it reads p_limit rows of each source from an index, and at most
10,000 checks where only denials are asked for, so that such a page may be short, or one
row with only next_cursor.$t$,
$t$Errors: actor errors, invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM billing.list_timeline(
    p_account_id =>
    billing.find_account('oauth:google:1'),
    p_kinds => '{denial,staff}');$t$),
        ('list_top_consumers',
$t$The accounts that used most in a period of UTC days, from p_from up to and without p_to
(by default this month): how often each was charged, and how many credits. p_sort is uses
(charges, free ones included) or credits (paid credits used); equals are ordered by id.
Charges of accounts that were merged count for the account that stayed. It reads every
charge of the period.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_top_consumers('2026-11-01',
'2026-12-01');$t$),
        ('list_top_up_attempts',
$t$Lists what top-ups tried to buy, newest first: of one account, or of all. status is open,
succeeded, failed or canceled; credited tells whether the credits have arrived.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_top_up_attempts(
    p_limit => 10);$t$),
        ('list_top_ups',
$t$Lists consents to top-ups, newest first: of one account, or of all. p_status is on or off,
or NULL for both.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_top_ups(
    p_status => 'on',
    p_limit => 10);$t$),
        ('list_transactions',
$t$An account's history: charges and credits, newest first. An account's ledger versions are
1, 2, 3 ... without a gap, so its newest version is the number of its rows, and a page is
one range of versions. Therefore the cost of a page does not grow with the offset, nor
with the distance of a cursor. Each row has the cursor of the page after its own; it is
NULL on the last page. Rows that are added while a client follows the cursors do not shift
its pages. A cursor cannot be combined with an offset. Each row says which entry it
corrects (corrects_id) and how much of it has been reversed. writer_kind and writer say
who wrote an entry; agents are not told the writer. Returns one row for each transaction.
An empty page is one row with only total_count (0 for an unknown account) and next_cursor.$t$,
$t$Errors: actor and key errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.list_transactions(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_limit => 10);$t$),
        ('list_usage',
$t$Usage and money by UTC day, of one account or, without p_account_id, of all: a row for
every day from p_from up to and without p_to, oldest first, days on which nothing happened
included. p_from is the beginning of this month and p_to a month after p_from unless they
are given. Money has a currency: where money of several currencies moved on one day, the
day has a row for each, and its usage is in the first, so that sums are right. sold_minor
is what purchases brought that were credited that day; returned_minor what went back by
refunds and disputes reported that day.$t$,
$t$Errors: actor errors, invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM billing.list_usage('2026-11-01', '2026-12-01');$t$),
        ('list_webhook_endpoints',
$t$Lists the endpoints with masked secrets, and how many deliveries wait or have failed.
problem says why the sender switched one off.$t$,
$t$Errors: actor errors.$t$,
$t$SELECT * FROM billing.list_webhook_endpoints();$t$),
        ('maintenance',
$t$Keeps the database in order; for cron or pg_cron, once a day. The steps: "figures" rolls
up the dashboard's figures; "seals" seals up to a million entries of days that are over;
"watch" compares the newest entries with their accounts and looks for guards that are
missing; "books" proves all books, for ten minutes at most (called again within a day, it
goes on); "erased people" erases what calls under way left behind of people who were
erased in the last week; "caps" deletes the usage of caps' windows that ended a day ago;
"refused charges" and "deliveries" delete what is older than p_keep; "partitions" makes
the coming months of the check audit; "checks" drops months that ended longer than p_keep
ago, and up to 500,000 older checks beside them. p_keep NULL keeps everything; p_steps
does some steps only. The answer has a row for each step: done, or failed and why. A step
that fails is undone, and the server's log has a WARNING of it; the other steps take
effect. While another call is at work, this one does nothing and says so.$t$,
$t$Locks: billing_data.locks (maintenance); seal_state; verification_runs; the check audit,
as billing.create_check_partitions and billing.drop_check_partitions. Writes: what the
steps do; admin_audit_logs 1. Errors: actor_required, invalid_argument.$t$,
$t$SELECT * FROM billing.maintenance();$t$),
        ('merge_accounts',
$t$Merges p_account_id into p_into_account_id: its paid credits move there by a transfer,
free uses up to what one account may have, and its id and identity lead there from then
on, for everything. Its own ledger stays as it is. Keys of requests that were made for its
identity before are still recognised for this identity. Its regular grants and its caps go
with it. Both accounts must be active, so that credits of a suspended or closed one do not
become usable unnoticed. The profile of the account that stays is kept; of two consents
the newest counts. A top-up of the merged account ends. When the idempotency key was used
before for the same merge, nothing is done and replayed is true, even if the merge was
undone since. With p_dry_run nothing is written: the answer, or the refusal, is what the
same call would give now, without a merge_id.$t$,
$t$Locks: both accounts, in id order. Writes: account_merges 1, accounts 2, credits 0..2,
merged_accounts, merge_ranks, admin_audit_logs 2. Errors: actor errors, invalid_argument,
account_not_found, accounts_are_one, account_merged, account_erased, account_not_active,
accounts_of_other_currency, balance_overflow, idempotency_key_reused,
serialization_failure (one of them was merged at this moment).$t$,
$t$SELECT *
FROM billing.merge_accounts(
    p_account_id => '...',
    p_into_account_id => '...',
    p_reason => 'one person with two sign-ins');$t$),
        ('note_delivery',
$t$Records the result of an attempt. p_error NULL says that the alert was delivered;
otherwise it is tried again after a pause, or parked as failed after the last attempt. The
answer 410 Gone says that the receiver wants no alerts any more: its endpoint is switched
off, and what waits for it is parked. A failure is not recorded when the delivery was
claimed again meanwhile. Returns the delivery's state; NULL when nothing was recorded.$t$,
$t$Locks: after a 410 the endpoint; the row. Writes: outbox 0..1; after a 410 outbox 0..n and
what billing_data.switch_off_gone writes. Errors: invalid_argument.$t$,
$t$SELECT billing.note_delivery(
    p_delivery_id => '...',
    p_attempt => 1,
    p_answer_status => 204);$t$),
        ('note_top_up',
$t$Records what became of an attempt, and tells what to do next with its payment (payment_id,
the one recorded first): charge it, cancel it, or stop. p_outcome is one of these: 'made'
(the provider has the payment p_payment_id and has not charged it: it is recorded, and
next_step tells whether to charge it, which depends on whether the consent is still in
force, the credits are still low, no money went back and the month is still the one whose
cap was looked at); 'succeeded' (paid); 'failed' (it can never be paid, for the reason
p_problem); 'canceled' (it can never be paid, and nothing went wrong); 'unknown' (it is
not known what became of it, for the reason p_problem: the attempt stays open, and is
handed out again after a pause that grows from 10 seconds to an hour). After the third
failure in a row the top-up ends (switched_off true). A report on an attempt that has
ended changes nothing.$t$,
$t$Locks: the top-up, the attempt. Writes: top_up_attempts 0..1, top_ups 0..1, purchases
0..1, outbox 0..n. Errors: invalid_argument.$t$,
$t$SELECT *
FROM billing.note_top_up(
    p_account_id => '...',
    p_purchase_id => '...',
    p_outcome => 'failed',
    p_problem => 'expired_card');$t$),
        ('pause_grant_schedule',
$t$Pauses a schedule of grants, or lets it go on (p_paused false). Grants that fell into the
pause are not made afterwards. A schedule that gives once, and whose moment fell into the
pause, gives as soon as the pause ends.$t$,
$t$Locks: the account. Writes: grant_schedules 0..1, accounts 0..1, admin_audit_logs 0..1.
Errors: actor errors, invalid_argument, grant_schedule_not_found, grant_schedule_over.$t$,
$t$SELECT *
FROM billing.pause_grant_schedule(
    p_schedule_id => '...',
    p_reason => 'the plan is on hold');$t$),
        ('process_payment_event',
$t$Processes one event, whose signature the caller has verified, in the form the caller made
of it. p_action is one of these: 'settle' (money came: p_amount_minor, p_currency);
'return' (how much of the money of refunds and disputes is away: the p_return arrays);
'unreadable' (money went back, and the provider does not show the charge to us); 'warn' (a
report of fraud: p_warning_id, p_warning_is_open); 'acknowledge'; 'ignore'. p_occurred_at
is the time for which the provider reports it. First it is decided whether the payment is
ours, then whether the mode fits; for p_is_claimed and p_is_foreign see
billing_data.owner_of_payment. An event that was processed before changes nothing, unless
it ended in a fault: then it is tried again. outcome is that of
billing_data.owner_of_payment, settle_payment or apply_return. needs_attention is true
when money and credits do not agree: then the event is kept and listed by
billing.list_payment_problems. The event's client secret is not stored. A server of the
release before reports only whether a return is withdrawn, without a time; such a report
counts only where nothing is known yet.$t$,
$t$Locks: the event, the account, the purchase. Writes: payment_events 1, what the effect
writes, admin_audit_logs 1 when a database role replays an event. Errors:
invalid_argument.$t$,
$t$SELECT *
FROM billing.process_payment_event(
    p_event_id => 'evt_1',
    p_event_type => 'customer.created',
    p_payload => '{}',
    p_action => 'ignore');$t$),
        ('read_money',
$t$Reads an amount that a person typed, like 7.99, and returns it in Stripe's minor units.
Refuses what could be read in two ways, such as 1,000, and more decimals than the currency
has.$t$,
$t$Errors: invalid_argument.$t$,
$t$SELECT billing.read_money(
    p_amount_text => '7.99',
    p_currency => 'USD');$t$),
        ('rebuild_figures',
$t$Discards the rolled-up figures and counts them again from the ledger. Call it after a
repair of the ledger, or when a transaction stayed open for minutes.$t$,
$t$Writes: the figures, admin_audit_logs 1. Errors: actor_required.$t$,
$t$SELECT billing.rebuild_figures();$t$),
        ('record_api_key_use',
$t$Records when and from where keys were last used. The arrays have one length, with one
entry for each key. The web tier collects uses and calls this every few seconds.$t$,
$t$Locks: the keys, in id order; a locked key is skipped, because its next use will be
recorded. Writes: api_keys 0..n; its commit may be asynchronous.$t$,
$t$SELECT
billing.record_api_key_use(ARRAY['...'::uuid],
ARRAY[now()], ARRAY['127.0.0.1'::inet]);$t$),
        ('record_credit',
$t$Adds credits, and returns an outcome instead of an error where an HTTP caller must be told
the difference: 'created'; 'replayed' or 'conflict', with the first credit's row, when the
idempotency key was used before by the same or by another request; account_not_found,
credit_currency_mismatch, balance_overflow; payment_already_credited and
payment_of_another_account when p_external_transaction_id names a payment that is known
here. A profile update that the call carries is kept whatever the outcome. Suspended and
closed accounts take credits. With p_effective_at in the future the credits come then, and
credit_id is the id of the entry that will be written (schedules.sql); until then
billing.end_grant_schedule takes it back, with this id. Credits with a time at which they
end, another priority than 50 (0 to 100, lower ones are spent first) or the source
promotion are a lot of their own (lots.sql).$t$,
$t$Locks: the account, then the payment's row of payment_effects. Writes: accounts 0..1,
credits 0..1, payment_effects 0..1, payment_warnings 0..1, lots 0..1, grant_schedules
0..1; admin_audit_logs 1 where staff or a database role credits. Errors: actor and key
errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.record_credit(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_amount_minor => 20,
    p_transaction_type => 'grant',
    p_description => 'a gift');$t$),
        ('record_webhook_try',
$t$Records that an endpoint was tried at p_url: p_error NULL says that it accepted the test
event, and that it can be switched on while it has this address.$t$,
$t$Locks: the endpoint. Writes: webhook_endpoints 0..1, admin_audit_logs 1. Errors: actor
errors, invalid_argument, webhook_endpoint_not_found.$t$,
$t$SELECT billing.record_webhook_try(
    p_endpoint_id => '...',
    p_url => 'https://example.com/billing',
    p_error => 'it answered 500');$t$),
        ('refresh_figures',
$t$Rolls up the slots that are over. One caller at a time does it; the others return false at
once. Where the clock was set back, what was rolled up too early is counted again.$t$,
$t$Writes: usage_figures, user_activity, users_by_day, user_pauses.$t$,
$t$SELECT billing.refresh_figures();$t$),
        ('release_hold',
$t$Releases a hold: nothing was used, and what it keeps is given back. A hold that is over is
released, too, so that it cannot be captured late. A hold that was released before is
returned with outcome 'replayed'. An API key releases its own holds and those of its chain
of rotations; staff and database roles release any, with a reason.$t$,
$t$Locks: the account. Writes: holds 1, hold_changes 1, accounts 0..1; admin_audit_logs 1
unless an API key calls. Errors: actor and key errors, invalid_argument, hold_not_found,
hold_settled.$t$,
$t$SELECT *
FROM billing.release_hold(
    p_hold_id => '...',
    p_reason => 'the job failed');$t$),
        ('remove_note',
$t$Removes a note. The audit log says who removed whose note, and not what it said. changed
is false when there is no such note any more.$t$,
$t$Locks: the note. Writes: account_notes 0..1, admin_audit_logs 0..1. Errors: actor errors.$t$,
$t$SELECT *
FROM billing.remove_note(
    p_note_id => '...');$t$),
        ('reopen_payment',
$t$Takes back a person's resolution of a payment: its purchase returns to its earlier state,
its events are listed again, and it can be credited. No balance changes. Where p_provider
is NULL, the payment's id tells its provider.$t$,
$t$Locks: the payment's events in id order, the account, the purchase, the effect. Writes:
payment_effects 1, purchases 0..1, payment_events 0..n, admin_audit_logs 1. Errors: actor
errors, invalid_argument, payment_not_resolved (also when money of it went back since
then).$t$,
$t$SELECT billing.reopen_payment(
    p_payment_id => 'pi_1',
    p_reason => 'a wrong payment');$t$),
        ('require_api_key',
$t$Refuses the call unless the key is good for the permission. The web tier calls it before
it tells a caller what is wrong with a request.$t$,
$t$Errors: api_key_*, permission_missing, actor errors.$t$,
$t$SELECT billing.require_api_key(
    p_api_key_id => '...',
    p_permission => 'billing:read');$t$),
        ('reseal_webhook_secrets',
$t$Stores the secrets that sign an endpoint's alerts, encrypted with another key; the secrets
themselves stay the same. An old secret that signs no more is deleted. Returns false, and
writes nothing, where the endpoint was changed after p_unchanged_since or has other
secrets by now. Then the caller reads it again.$t$,
$t$Locks: the endpoint. Writes: webhook_endpoints 0..1, admin_audit_logs 0..1. Errors: actor
errors, invalid_argument, webhook_endpoint_not_found.$t$,
$t$SELECT billing.reseal_webhook_secrets(
    p_endpoint_id => '...',
    p_reason => 'a new key',
    p_secrets => '[{"encrypted": "as the server
    makes it", "masked": "whsec_…test"}]');$t$),
        ('resend_deliveries',
$t$Sends one delivery again (p_delivery_id), whatever its state, or all failed ones of an
endpoint (p_endpoint_id): they are due at once, with all attempts ahead, under the same
webhook-id. Returns how many deliveries those are.$t$,
$t$Locks: the rows. Writes: outbox 1..n, admin_audit_logs 1 when there were any. Errors:
actor errors, invalid_argument, delivery_not_found, webhook_endpoint_not_found,
webhook_endpoint_off.$t$,
$t$SELECT billing.resend_deliveries(
    p_endpoint_id => '...',
    p_reason => 'mended');$t$),
        ('reset_free_uses',
$t$Sets an account's free uses, by default to what new accounts get. This is not a ledger
entry, because the ledger is about paid credits. The audit row proves it, with the ledger
version that the account had.$t$,
$t$Locks: the account. Writes: accounts 0..1, admin_audit_logs 0..1, outbox 0..n. Errors:
actor errors, invalid_argument, account_not_found, account_erased.$t$,
$t$SELECT *
FROM billing.reset_free_uses(
    p_account_id => '...',
    p_reason => 'a new start');$t$),
        ('resolve_payment',
$t$Records how a person has dealt with a payment that could not be credited: p_how is
'credited' with p_credit_id, the credit that was given for it by hand; 'refunded'; or
'other'. The resolution belongs to the payment: no event and no reconciliation credits it
again, and its open events leave the list of problems. p_amount_minor and p_currency give
the amount paid where no stored event has it; a later refund uses them to take back its
share of the credit. Where p_provider is NULL, the payment's id tells its provider.$t$,
$t$Locks and writes: billing_data.record_resolution, and admin_audit_logs 1. Errors: actor
errors, invalid_argument, payment_already_credited, credit_not_usable.$t$,
$t$SELECT billing.resolve_payment(
    p_payment_id => 'pi_1',
    p_how => 'refunded',
    p_reason => 'refunded in the dashboard');$t$),
        ('resolve_payment_event',
$t$Closes an event that ended in a fault, after a person has put right what it was about: it
leaves the list of problems, and its redelivery is accepted. Where its payment is not
credited, this also resolves the payment, as billing.resolve_payment does: p_how is
'credited' with p_credit_id, 'refunded', or 'other' (also when neither is given). When the
event is a return of money whose payment was not reported yet, it does not resolve the
payment, unless p_how is given.$t$,
$t$Locks: the payment's events in id order, and what billing_data.record_resolution locks.
Writes: payment_events 1, admin_audit_logs 1, and what that writes. Errors: actor errors,
invalid_argument, payment_event_not_found, payment_already_credited, credit_not_usable.$t$,
$t$SELECT billing.resolve_payment_event(
    p_event_id => 'evt_1',
    p_reason => 'refunded in the dashboard',
    p_how => 'refunded');$t$),
        ('resolve_payment_warning',
$t$Closes a warning about a payment (a report of fraud or a second credit) that a person has
dealt with: it leaves the list of problems. No balance changes.$t$,
$t$Locks: the warning. Writes: payment_warnings 1, admin_audit_logs 1. Errors: actor errors,
invalid_argument, payment_warning_not_found.$t$,
$t$SELECT billing.resolve_payment_warning(
    p_warning_id => 'issfr_1',
    p_reason => 'refunded in the dashboard');$t$),
        ('resolve_shortfall',
$t$Writes off the shortfall of a return of money: it leaves the list of problems.$t$,
$t$Locks: the return. Writes: payment_returns 1, admin_audit_logs 1. Errors: actor errors,
invalid_argument, payment_return_not_found.$t$,
$t$SELECT billing.resolve_shortfall(
    p_return_id => 're_1',
    p_reason => 'written off');$t$),
        ('retire_expired_api_key',
$t$Marks an expired key as revoked, so that it is reported as invalid from then on. A key
that has not expired is left alone, whoever calls.$t$,
$t$Writes: api_keys 0..1. Errors: none.$t$,
$t$SELECT billing.retire_expired_api_key(
    p_api_key_id => '...');$t$),
        ('return_payment',
$t$Records how much of a refund's or dispute's money is away now (p_away_minor; without it
all of the money when p_withdrawn, otherwise none), and takes or gives back the credits,
in proportion and never below zero. This is the newest report there is, unless the return
has changed here after p_read_at, the time when the caller read it at the provider.
p_transactions is how many balance transactions a dispute had then. away_minor is the
amount known to be away afterwards.$t$,
$t$Locks: the account, the purchase. Writes: payment_returns, payment_return_credits,
credits, accounts, admin_audit_logs 1 when the amount away has changed. Errors:
actor_required, invalid_argument. The outcome tells the rest: 'taken_back', 'restored',
'waiting' (the payment itself has not been credited yet), 'unchanged', 'resolved' (a
person has dealt with the payment, and nothing was credited for it), 'ignored' (not one of
our payments, or an inquiry that moves no money), or what is wrong.$t$,
$t$SELECT *
FROM billing.return_payment(
    p_payment_id => 'pi_1',
    p_return_id => 're_1',
    p_kind => 'refund',
    p_amount_minor => 250);$t$),
        ('reverse_charge',
$t$Gives a charge back, whole or in part, to what paid for it: a free use is given back
whole, paid credits as far as p_amount says (by default all that is left). All reversals
of a charge together never exceed it. An API key reverses only what it, or a key of its
chain of rotations, charged; it does not find any other charge, nor a charge of a person
who was erased. The account's state does not matter. A charge of a merged account is given
back to the account that stayed. total_uses counts charges, so it stays. When the
idempotency key was used before for the same reversal, nothing is done and replayed is
true; reversed_minor and free_uses_remaining are then the present ones. With p_dry_run
nothing is written and reversal_id is NULL. Caps that counted the charge get it back while
their minute, day or month is not over.$t$,
$t$Locks: the account, the reversed_entries row, then cap_usage in the order of the caps.
Writes: reversed_entries 1, credits 1, accounts 1, cap_usage 1 per cap, and
admin_audit_logs 1 unless an API key calls. Errors: actor and key errors,
invalid_argument, charge_not_found, account_erased (not for API keys),
entry_of_old_service, already_reversed, reversal_too_great, free_use_is_whole,
balance_overflow, idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.reverse_charge(
    p_charge_id => '...',
    p_reason => 'the job failed');$t$),
        ('reverse_credit',
$t$Takes a grant or another credit back, whole or in part (p_amount, more than 0; by default
all that is left), and gives back credits that staff took away, to the lots that they were
taken of. All reversals of a credit together never exceed it, and never take more than the
account has. A credit that belongs to a payment is refused: a refund at the provider takes
it back. A correction is not reversed again. When the idempotency key was used before for
the same reversal, nothing is done and replayed is true. With p_dry_run nothing is written
and reversal_id is NULL.$t$,
$t$Locks: the account, then the reversed_entries row. Writes: reversed_entries 1, credits 1,
accounts 1, admin_audit_logs 1, and what billing_data.give_back_to_lots writes. Errors:
actor errors, invalid_argument, credit_not_found, account_erased, credit_of_payment,
correction_not_reversible, entry_of_old_service, already_reversed, reversal_too_great,
insufficient_credits, balance_overflow, idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.reverse_credit(
    p_credit_id => '...',
    p_reason => 'granted by mistake');$t$),
        ('revoke_api_key',
$t$Revokes a key: every process refuses it from the next request on. Revoking it again has no
effect.$t$,
$t$Locks: the key. Writes: api_keys 0..1, admin_audit_logs 0..1. Errors: actor errors,
invalid_argument, api_key_not_found.$t$,
$t$SELECT *
FROM billing.revoke_api_key(
    p_api_key_id => '...',
    p_reason => 'it leaked');$t$),
        ('rotate_api_key',
$t$Replaces an active key. The successor has the same name, environment, permissions and
remaining lifetime in whole days. The old key works for 24 more hours, but never past its
own expiry.$t$,
$t$Locks: the old key. Writes: api_keys 2, admin_audit_logs 2. Errors: actor errors,
invalid_argument, api_key_not_found, api_key_not_active.$t$,
$t$SELECT *
FROM billing.rotate_api_key(
    p_api_key_id => '...',
    p_key_prefix => '...',
    p_key_hash => '...',
    p_reason => 'yearly rotation');$t$),
        ('rotate_webhook_secret',
$t$Gives an endpoint another secret. Alerts are signed with both secrets for a day, so that
the receiver can change over meanwhile. A further rotation within that day ends the oldest
secret at once.$t$,
$t$Locks: the endpoint. Writes: webhook_endpoints 1, admin_audit_logs 1. Errors: actor
errors, invalid_argument, webhook_endpoint_not_found.$t$,
$t$SELECT billing.rotate_webhook_secret(
    p_endpoint_id => '...',
    p_reason => 'leaked',
    p_secret => '{"encrypted": "as the server makes
    it", "masked": "whsec_…wxyz"}');$t$),
        ('seal_entries',
$t$Seals about p_entries entries of days that are over, and closes a day's head after its
last seal. Call it again while it returns a row. It returns none when everything is
sealed, while another session seals, and during a pause: with p_percent below 100, each
call is followed by a pause that keeps all calls together to this share of the time.
Sealing locks no account and no entry.$t$,
$t$Locks: seal_state, if it is free. Writes: seals 1 per account and day, seal_salts 1 per
account, seal_heads 1 per day. No actor is needed: the web tier calls it by itself.
Errors: invalid_argument.$t$,
$t$SELECT * FROM billing.seal_entries();$t$),
        ('search',
$t$Finds what a person types, of every kind: accounts by the beginning of an e-mail address
or external id (where nothing at all is found so, by any part of one of the newest
100,000), or by id, also of a merged account; charges, credits and holds by id; payments
and events by the provider's id; API keys by prefix or name; staff by address or name;
entries of the audit log by words of their reason, the last of which may be unfinished. At
most p_limit of each kind. A text of one letter finds nothing.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT * FROM billing.search(p_search => 'ada@');$t$),
        ('seed_founders',
$t$Invites the administrators whom the operator names at a deploy. A new address is added; a
named administrator who has not signed in yet and whose invitation has expired is invited
again; all others stay as they are. Returns how many were invited. Not for the web tier.$t$,
$t$Writes: as billing.add_admin. Errors: actor_required, invalid_argument.$t$,
$t$SELECT billing.seed_founders(
    p_emails => '{ada@example.com}');$t$),
        ('seed_settings',
$t$Fills the settings row from the environment of the first deploy. Later calls change
nothing.$t$,
$t$Locks: the settings row. Errors: actor_required for the web tier, invalid_argument for a
price that Stripe does not take.$t$,
$t$SELECT *
FROM billing.seed_settings(
    p_free_uses => 3);$t$),
        ('set_account_status',
$t$Suspends, reactivates or closes an account. Suspended and closed accounts cannot be
charged but still take credits.$t$,
$t$Locks: the account. Writes: accounts 1, admin_audit_logs 1 when it changed, outbox 0..n.
Errors: actor errors, invalid_argument, account_not_found, account_erased.$t$,
$t$SELECT *
FROM billing.set_account_status(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_status => 'suspended',
    p_reason => 'chargeback');$t$),
        ('set_admin',
$t$Changes a staff member's role, or whether they may sign in; NULL keeps the present value.
When a staff member is deactivated, their sessions end at once. Somebody who becomes an
administrator must sign in again within seven days: see billing.sign_in_admin. The last
active administrator cannot lose that role.$t$,
$t$Locks: all administrators (so that two cannot remove each other). Writes: admin_users
0..1, admin_sessions, admin_audit_logs 0..1. Errors: actor errors, invalid_argument,
admin_not_found, last_admin.$t$,
$t$SELECT *
FROM billing.set_admin(
    p_email => 'ada@example.com',
    p_role => 'viewer',
    p_reason => 'moved to another team');$t$),
        ('set_admin_domain',
$t$Changes the domain that staff's e-mail addresses must have. Staff with an address
elsewhere keep their session until it ends and cannot sign in again.$t$,
$t$Locks: the settings row. Writes: settings 1, admin_audit_logs 1 when it changed. Errors:
actor_required, invalid_argument.$t$,
$t$SELECT billing.set_admin_domain(
    p_domain => 'example.com',
    p_reason => 'a new name');$t$),
        ('set_cap',
$t$Sets how many credits may be charged in a period ('minute', 'day' or 'month' of the UTC
calendar) by an API key and the keys that it is rotated to, to an account, by an agent, or
by all. The mode 'hard' refuses what would exceed the limit; the mode 'alert' only tells
that it was reached. A new cap counts from now on. A second call for the same scope,
subject, period and mode changes the limit of that cap, and what was counted stays
counted. A cap that was reached and has room again by a higher limit counts as not
reached. Charges that are under way may still be decided by the old limit.$t$,
$t$Locks: the account that the cap is for, the cap's row, its row of cap_usage. Writes: caps
1, cap_usage 0..1, admin_audit_logs 1 when something changed. Errors: actor errors,
invalid_argument, api_key_not_found, account_not_found, serialization_failure when the
account was merged at this moment.$t$,
$t$SELECT *
FROM billing.set_cap(
    p_scope => 'account',
    p_subject => 'oauth:google:1',
    p_period => 'day',
    p_limit_minor => 1000,
    p_reason => 'its owner asked for it');$t$),
        ('set_grant_schedule',
$t$Gives an account credits again and again: p_amount at 00:00 UTC of every day, of every
week's p_day (1 is Monday) or of every month's p_day (a shorter month uses its last day).
What is left of a grant ends when the next one comes; with p_rollover it is kept.
p_lasts_days ends it in any case after that many days. The first grant is the first one
after p_starts_at (by default now); the last one is the last before p_ends_at, or the
p_grants-th. With p_repeat once the schedule gives at p_starts_at. With p_schedule_id this
schedule is changed as a whole: an argument that is left out has its default, as for a new
schedule. A schedule's writer is whoever changed it last. When the idempotency key was
used before for the same schedule of the account, nothing is done and replayed is true.$t$,
$t$Locks: the account. Writes: grant_schedules 1, accounts 1, admin_audit_logs 1, and the
grant itself where it is due at once. Errors: actor errors, invalid_argument,
account_not_found, account_erased, grant_schedule_not_found, grant_schedule_over,
idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.set_grant_schedule(
    p_account_id => '...',
    p_amount => 20,
    p_day => 1,
    p_reason => 'a plan with 20 messages a month');$t$),
        ('set_low_balance',
$t$Sets the balance at which an account counts as low: free uses left and paid credits
together. While it is set, checks say low_balance, and the alerts balance.low and
balance.recovered are raised when a balance crosses it. NULL switches that off.$t$,
$t$Locks: the settings row. Writes: settings 0..1, admin_audit_logs 1 when it changed.
Errors: actor errors, invalid_argument.$t$,
$t$SELECT billing.set_low_balance(
    p_threshold => 5,
    p_reason => 'tell users in time');$t$),
        ('set_pricing',
$t$Changes how many uses new users get free and what a pack is; NULL keeps the present value.
A pack that was already offered keeps its price. A price is in Stripe's minor units and
must be one that Stripe takes (see billing.currencies).$t$,
$t$Locks: the settings row. Writes: settings 1, admin_audit_logs 1 when something changed.
Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.set_pricing(
    p_pack_price_minor => 700,
    p_reason => 'new price');$t$),
        ('set_provider_config',
$t$Changes a provider's configuration. Each member of p_config_data replaces the member of
the same name; a null removes it; a member that is not named stays. A setting that may
have several values may be given as an array, in which a mask stands for a stored secret
that stays. Test and live keys cannot be mixed. With p_unchanged_since (an updated_at that
was read), a change since then is not overwritten.$t$,
$t$Locks: the provider's row. Writes: provider_configs 1, admin_audit_logs 1 (names and masks
only). Errors: actor errors, invalid_argument, provider_config_changed.$t$,
$t$SELECT *
FROM billing.set_provider_config(
    p_provider_type => 'stripe',
    p_is_active => false);$t$),
        ('set_top_up',
$t$Records a person's consent that a saved card buys p_packs packs whenever the available
paid credits are p_threshold or fewer, for at most p_monthly_cap_minor in a UTC month. The
consent is stored with its words, its version, the time, and who recorded it.
p_amount_minor is what one top-up costs now, as the person was told; when packs become
dearer, the top-up ends. p_payment_id is a payment of the account by which the card was
saved, with the provider's ids of the customer and the card; without it, the card of the
top-up before is used. A consent replaces the one in force. The same consent again changes
nothing (changed false), unless money of a payment went back since.$t$,
$t$Locks: the account, its top-up. Writes: top_ups 0..2, admin_audit_logs 0..1 for a DBA.
Errors: actor and key errors, invalid_argument, account_not_found, payment_not_found,
top_up_card_missing, top_up_price_changed.$t$,
$t$SELECT *
FROM billing.set_top_up(
    p_oauth_provider => 'oauth:google',
    p_external_id => '1',
    p_threshold => 2,
    p_packs => 1,
    p_amount_minor => 500,
    p_currency => 'USD',
    p_monthly_cap_minor => 2000,
    p_consent_version => '2026-11',
    p_consent_text => 'Charge my card $5.00 when 2
    credits are left.',
    p_payment_id => 'pi_1',
    p_customer_id => 'cus_1',
    p_payment_method_id => 'pm_1');$t$),
        ('set_webhook_endpoint',
$t$Changes an endpoint, or switches it on, off or pauses it; NULL keeps the present value. An
endpoint that gets another address is off until it has been tried there. What waits for an
endpoint that is switched off is parked as failed, and can be sent again later.$t$,
$t$Locks: the endpoint. Writes: webhook_endpoints 0..1, outbox 0..n, admin_audit_logs 1 when
it changed. Errors: actor errors, invalid_argument, webhook_endpoint_not_found,
webhook_not_tried.$t$,
$t$SELECT *
FROM billing.set_webhook_endpoint(
    p_endpoint_id => '...',
    p_status => 'paused',
    p_reason => 'the shop is being moved');$t$),
        ('settle_items_once',
$t$Captures the holds and then makes the charges of one request, as billing.charge_items_once
does: all in one transaction, once per idempotency key. Each row has a charge's outcome or
that of a capture. With p_wait false there is no row where an account is held, and nothing
was done.$t$,
$t$Locks, writes and errors: as billing.charge_items_once and billing.capture_items.$t$,
$t$SELECT *
FROM billing.settle_items_once(
    p_idempotency_key => 'batch-1',
    p_request_fingerprint => decode('00', 'hex'),
    p_captures => ..., ...);$t$),
        ('settle_purchase',
$t$Credits what was sold for a payment that succeeded at the provider, once per payment. It
is for reconciliation and for a DBA who has seen the payment there; the provider's events
go through billing.process_payment_event and have the same effect. The payment's metadata
is trusted only as far as this database confirms it. Any other payment a person credits by
billing.create_credit.$t$,
$t$Locks: the account. Writes: purchases, credits, accounts, admin_audit_logs 1 when it
credited. Errors: actor_required, invalid_argument; the outcome tells what prevents
crediting.$t$,
$t$SELECT *
FROM billing.settle_purchase(
    p_payment_id => 'pi_1',
    p_amount_minor => 500);$t$),
        ('sign_in_admin',
$t$Signs in the person whom the identity provider has identified, and opens their session.
Only the web tier says that the provider did so; therefore a web tier that lies can gain
only what anybody at the staff's domain gets: a new person becomes a viewer, and a known
viewer stays one. An administrator is signed in only from the provider's account (Google's
subject) that is bound to them, and no function reveals that account. The first sign-in
after an invitation (billing.add_admin, set_admin, invite_admin) binds it, while the
invitation is valid. Name and picture are refreshed. Only addresses of the staff's domain
may sign in.$t$,
$t$Locks: 'sign_in', the staff member. Writes: admin_users 1..2, admin_sessions 1,
admin_audit_logs 1..2. Errors: invalid_argument, admin_domain_refused, admin_deactivated,
admin_not_invited.$t$,
$t$SELECT *
FROM billing.sign_in_admin(
    p_email => 'ada@example.com',
    p_google_id => '1',
    p_session_hash => sha256('random'));$t$),
        ('statement',
$t$An account's statement of a period: a row of the kind opening with what it had before, its
entries in their order, when staff set its free uses (kind free_uses), and a row of the
kind closing with what it had afterwards. The period is half open: an entry written at
exactly p_from belongs to it, and one written at exactly p_to belongs to the next. So the
closing of a period is the opening of the next, and every entry is in one of them.
Opening, plus credits_change and free_uses_change of all rows, is closing. p_from is the
beginning of this UTC month and p_to a month after p_from unless they are given. A time
without a zone is in the session's time zone: write '2026-11-01 00:00Z' for UTC. An
account that was made within the period opens when it was made. Balances are NULL before
that, and before the books of an account that was taken over begin. A reader who takes a
long statement in pages gives p_limit (entries of a page, to 10000), from the second page
on p_after (the ledger version of the last entry it has), and p_through, the ledger
version at the end of the period, from billing.balance_at. The last page has the closing
row. For an account that was merged it is the statement of the one that stayed, and with
p_follow false its own, which the merge closed.$t$,
$t$Errors: actor and key errors, invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM
billing.statement(billing.find_account('oauth:google:1'),
'2026-11-01 00:00Z', '2026-12-01 00:00Z');$t$),
        ('tidy_holds',
$t$Books what is due for up to p_accounts accounts: the end of holds and credits that are
over, and grants. No decision depends on this call, because every function counts what is
due anyway. It only makes lists and sums show it soon. Returns how many accounts it booked
for.$t$,
$t$Locks: the accounts; those that another transaction holds are left out. Writes: as
billing_data.bring_up_to_date. No actor is needed: the web tier calls it by itself.
Errors: invalid_argument.$t$,
$t$SELECT billing.tidy_holds();$t$),
        ('total_purchases',
$t$Adds up the purchases that billing.list_purchases lists for the same filters, by currency:
how many there are, and of those that were paid what came in, what went back and what is
left.$t$,
$t$Errors: actor errors, invalid_argument.$t$,
$t$SELECT *
FROM billing.total_purchases(
    p_from => '2026-11-01',
    p_to => '2026-11-30');$t$),
        ('transfer_credits',
$t$Moves paid credits from one account to another of the same currency, with two ledger rows
of one transfer_id. Credits leave only an active account; any account takes them but that
of a person who was erased. When the idempotency key was used before for the same
transfer, nothing is done and replayed is true. With p_dry_run nothing is written: the
answer, or the refusal, is what the same call would give now, and it has no transfer_id.$t$,
$t$Locks: both accounts, in id order. Writes: credits 2, accounts 2, admin_audit_logs 2.
Errors: actor errors, invalid_argument, account_not_found, accounts_are_one,
account_erased, accounts_of_other_currency, account_not_active, insufficient_credits,
balance_overflow, idempotency_key_reused, serialization_failure (an account was merged at
this moment).$t$,
$t$SELECT *
FROM billing.transfer_credits(
    p_from_account_id => '...',
    p_to_account_id => '...',
    p_amount => 5,
    p_reason => 'bought with the wrong sign-in');$t$),
        ('try_writing',
$t$Takes everything that a charge takes except an account: a transaction number with its
lock, and the locks of the tables and of all their indexes. It matches no row, so it
delays nobody and writes nothing. It waits for a table's lock for 100 ms at most. When
this call succeeds, charges can be expected to succeed.$t$,
$t$Locks: accounts and charges, both ROW EXCLUSIVE, to the end of the transaction. Writes:
nothing. Errors: PostgreSQL's own: 25006 when the database is read-only, 53200 when no
lock is left, 55P03 when another session holds a table.$t$,
$t$SELECT billing.try_writing();$t$),
        ('undo_merge',
$t$Undoes the merge of an account, as long as the account that it was merged into has not
changed since: credits, free uses and consent are as before, and id and identity lead to
the account itself again. p_account_id is the account that was merged. When the
idempotency key was used before for this account, nothing is done and replayed is true;
with another reason it is another request. With p_dry_run nothing is written: the answer,
or the refusal, is what the same call would give now, without an undo_id.$t$,
$t$Locks: both accounts, in id order. Writes: account_merges 1, accounts 2, credits 0..2,
merged_accounts 1, admin_audit_logs 2. Errors: actor errors, invalid_argument,
account_not_found, account_not_merged, merge_stands (it says why), idempotency_key_reused.$t$,
$t$SELECT *
FROM billing.undo_merge(
    p_account_id => '...',
    p_reason => 'two people');$t$),
        ('use_sign_in_link',
$t$Uses up a link and opens its session. There is no row when the link was used or has
expired, or when its owner is deactivated.$t$,
$t$Locks: the ticket, the staff member (so that a deactivation at the same time ends this
session too). Writes: sign_in_tickets, admin_sessions 0..1, admin_audit_logs 0..1.$t$,
$t$SELECT *
FROM billing.use_sign_in_link(
    p_ticket_hash => sha256('random'),
    p_session_hash => sha256('another'));$t$),
        ('use_sign_in_ticket',
$t$Uses up a ticket. Returns true the first time; false after that, and for a ticket that
does not exist or has expired.$t$,
$t$$t$,
$t$SELECT billing.use_sign_in_ticket(
    p_ticket_hash => sha256('random'));$t$),
        ('verify_ledger',
$t$Everything in the books that does not agree, with the account it is about (NULL where it
is about the database itself). Each entry is compared with the one before and with the
digest it was written with. Each account is compared with its entries: versions, paid
credits, total uses, and free uses (those it was opened with and those staff gave, less
those used). Each purchase and return of money is compared with its credits and the other
way round, and each reversal with what it corrects. Everything that belongs to an account
must have one, and everything that guards the books must be in force. Entries up to
billing_data.ledger_openings are of the old service and in another unit: they are only
counted, and must look like the old service's. What is sealed is compared with the
entries, and the heads of the days with the seals (seals.sql). It looks at one account
(p_account_id), at the accounts whose ids follow p_after up to p_through, or at all of
them. What belongs to no account is looked at where p_after and p_account_id are NULL.
billing.continue_verification goes through all ranges, and can be stopped. Reads
everything once, as of one moment: this takes seconds for a million entries and minutes on
a large database.$t$,
$t$Errors: actor_required.$t$,
$t$SELECT * FROM billing.verify_ledger();$t$),
        ('watch_books',
$t$What an alarm watches, at low cost: the accounts of the newest p_entries charges, of as
many credits, and those of p_known (found wrong before, so that an alarm ends when the
books are mended and not when the entries are no longer the newest). For each account it
compares the balance and version with the newest entry, and that entry with the one before
and with the digest it was written with. It reads a few rows for each account, whatever
the size of the ledger; only verify_ledger tells whether everything agrees. It also
returns how many payments a person must look at, and how many guards of the books are not
in force. No actor is needed: the web tier calls it by itself.$t$,
$t$Errors: invalid_argument.$t$,
$t$SELECT * FROM billing.watch_books();$t$),
        ('watch_holds',
$t$How many holds are open, and how many credits they keep. When the oldest hold ended whose
end is not booked yet (NULL: there is none). How many holds that ended unsettled were
booked in the last five minutes.$t$,
$t$$t$,
$t$SELECT * FROM billing.watch_holds();$t$),
        ('watch_outbox',
$t$What an alarm needs to know about endpoints that are switched on: how many deliveries
wait, when the first of them is or was due, and how many were given up.$t$,
$t$$t$,
$t$SELECT * FROM billing.watch_outbox();$t$),
        ('withdraw_consent',
$t$Withdraws a person's consent to marketing, of the account p_account_id or of the identity.
A consent that agents go on sending does not count again. With p_undo true, the next
consent that an agent sends counts again. changed is false when nothing had to change.$t$,
$t$Locks: the account. Writes: accounts 0..1, admin_audit_logs 0..1. Errors: actor errors,
invalid_argument, account_not_found.$t$,
$t$SELECT *
FROM billing.withdraw_consent(
    p_reason => 'asked by e-mail',
    p_oauth_provider => 'oauth:google',
    p_external_id => '1');$t$)
    ) AS m (name, about, effects, example);
$manual$;
COMMENT ON FUNCTION billing_data.manual IS
    'What the header comments of the functions say, for help(). Helper.';
