-- The one published table of refusals: slug, SQLSTATE, HTTP status and wording. Functions raise
-- from it and the web tier answers from it, so that psql and HTTP cannot differ. {name} is replaced
-- by a value that the function passes. Most wordings are part of the wire contract.
CREATE OR REPLACE VIEW billing.errors AS
SELECT
    e.slug,
    'PB' || e.http_status AS sqlstate,
    e.http_status,
    e.message,
    e.hint
FROM (
    VALUES
    ('account_cap_reached', 402,
        'Cap of {limit} per {period} for {capped} reached, {used} used; it frees at {resets_at}',
        'SELECT * FROM billing.list_caps(); shows what it has used, billing.set_cap raises it.'),
    ('account_closed', 403, 'Account is closed',
        'A closed account cannot be charged.'),
    ('account_erased', 409, 'The data of the person of account {account_id} was erased',
        'Nothing is given, taken or moved there any more; a payment is refunded at its provider.'),
    ('account_has_holds', 409, 'Account {account_id} has open holds',
        'Wait until they are settled, or release them: SELECT billing.release_hold(...);'),
    ('account_in_use', 409, 'The account still has {problem}',
        'Settle that first, or pass p_force => true: credits are given up, problems stay open.'),
    ('account_not_active', 409, 'Account {account_id} is {status}',
        'If its credits may be used elsewhere, make the account active first.'),
    ('account_merged', 409, 'Account {account_id} was merged into account {into_account_id} before',
        'Name the account that it was merged into, or undo that merge first.'),
    ('account_not_found', 404, 'Account not found',
        'Accounts are created by billing.check_credit and billing.create_account.'),
    ('account_not_merged', 409, 'Account {account_id} is not merged into another one',
        'SELECT * FROM billing.list_merges(...);'),
    ('account_suspended', 403, 'Account suspended: Account suspended',
        'Reactivate the account before charging it.'),
    ('accounts_are_one', 409, 'Both ids lead to one account: {account_id}',
        'Name two different accounts.'),
    ('accounts_of_other_currency', 409,
        'The accounts have different currencies: {currency} and {other_currency}',
        'Credits cannot be moved between currencies.'),
    ('actor_not_allowed', 403,
        'Only the web tier may name an API key or a staff member as the actor',
        'Leave out p_api_key_id and p_session_hash: the call is recorded under your own role.'),
    ('actor_required', 403, 'This call must name who it is for',
        'The web tier passes p_api_key_id or p_session_hash; other callers need role billing_dba.'),
    ('admin_deactivated', 403, 'User account {email} is deactivated',
        'An administrator can make the account active again.'),
    ('admin_domain_refused', 403, 'Only @{domain} emails are allowed. Got: {email}',
        'Sign in with an address of the staff''s domain; it is a setting.'),
    ('admin_not_found', 404, 'Staff member not found: {email}',
        'SELECT * FROM billing.list_admins();'),
    ('admin_not_invited', 403,
        'User account {email} belongs to another sign-in, or its invitation is over',
        'A DBA or administrator can invite again: SELECT billing.invite_admin(...);'),
    ('admin_role_required', 403, 'Admin role required. Your role: {role} (read-only)',
        'Ask an administrator.'),
    ('api_key_expired', 401, 'Authentication failed: API key expired',
        'Create or rotate the key.'),
    ('api_key_invalid', 401, 'Authentication failed: Invalid API key',
        'The key does not exist or was revoked.'),
    ('api_key_not_found', 404, 'API key not found: {api_key_id}',
        'SELECT * FROM billing.list_api_keys();'),
    ('api_key_not_active', 409, 'API key cannot be rotated: its status is {status}',
        'Only an active key can be rotated; rotate its successor or create a new key.'),
    ('already_reversed', 409, 'Entry {entry_id} is already reversed as a whole',
        'The account''s history shows its reversals.'),
    ('balance_overflow', 422,
        'Balance overflow: {balance} and {amount} together exceed {maximum}',
        'Grant a smaller amount.'),
    ('busy', 503, 'The account is busy, please retry',
        'Another transaction holds the account; retry in a moment.'),
    ('cap_not_found', 404, 'Cap not found: {cap_id}',
        'SELECT * FROM billing.list_caps();'),
    ('cap_reached', 429,
        'Cap of {limit} per {period} for {capped} reached, {used} used; it frees at {resets_at}',
        'SELECT * FROM billing.list_caps(); shows what it has used, billing.set_cap raises it.'),
    ('capture_exceeds_hold', 409, 'Hold {hold_id} is of {held}, and {required} was asked for',
        'Capture at most what is held, or pass overage => available.'),
    ('charge_already_exists', 409, 'Charge already exists',
        'The idempotency key was used for this account; DETAIL names the charge.'),
    ('charge_currency_mismatch', 400,
        'Data integrity error: Currency mismatch: account={account_currency}, charge={currency}',
        'Charge in the account''s currency.'),
    ('charge_not_found', 404, 'Charge not found: {charge_id}',
        'SELECT * FROM billing.list_transactions(...); shows the charges of an account.'),
    ('correction_not_reversible', 409, 'Credit {credit_id} is itself a correction',
        'Correct the account by a new entry: SELECT * FROM billing.adjust_credits(...);'),
    ('credit_already_exists', 409, 'Credit already exists',
        'The idempotency key was used for this account; DETAIL names the credit.'),
    ('credit_currency_mismatch', 400,
        'Data integrity error: Currency mismatch: account={account_currency}, credit={currency}',
        'Credit in the account''s currency.'),
    ('credit_not_found', 404, 'Credit not found: {credit_id}',
        'SELECT * FROM billing.list_transactions(...); shows the credits of an account.'),
    ('credit_of_payment', 409,
        'Credit {credit_id} belongs to a payment: refund the payment at its provider',
        'The refund takes its credits back by itself, as far as the account has them.'),
    ('delivery_not_found', 404, 'No delivery {delivery_id}',
        'SELECT * FROM billing.list_deliveries();'),
    ('entry_of_old_service', 409,
        'Entry {entry_id} is of the old service and in another unit, so it cannot be reversed',
        'Correct the account by a new entry: SELECT * FROM billing.adjust_credits(...);'),
    ('free_use_is_whole', 422,
        'A free use is given back whole: the charge is {left}, and {amount} was asked for',
        'Leave the amount out.'),
    ('entry_not_found', 404, 'No charge or credit has this id',
        'SELECT * FROM billing.list_transactions(...);'),
    ('grant_schedule_not_found', 404, 'Grant schedule not found: {schedule_id}',
        'SELECT * FROM billing.list_grant_schedules(...);'),
    ('grant_schedule_over', 409, 'Grant schedule {schedule_id} has ended',
        'Make another one: SELECT billing.set_grant_schedule(...);'),
    ('hold_already_exists', 409, 'Hold already exists',
        'The idempotency key was used for this account; DETAIL names the hold.'),
    ('hold_expired', 409, 'Hold {hold_id} is over. Available: {available}, Required: {required}',
        'A hold that is over can be captured for as long as the account still has its credits.'),
    ('hold_not_found', 404, 'Hold not found: {hold_id}',
        'SELECT * FROM billing.list_holds(...);'),
    ('hold_settled', 409, 'Hold {hold_id} was {state} before',
        'A hold is settled once.'),
    ('idempotency_key_reused', 422, 'Idempotency key was used with a different request',
        'Use a new key for a new request.'),
    ('insufficient_credits', 402, 'Insufficient credits. Balance: {balance}, Required: {required}',
        'Buy or grant credits first.'),
    ('invalid_argument', 422, 'Invalid {argument}: {problem}',
        'SELECT * FROM billing.help();'),
    ('last_admin', 409, 'This would leave nobody with the role admin',
        'Make somebody else an administrator first.'),
    ('login_name_reserved', 403, 'A login named {login} is not recorded as a writer',
        'The name stands for another kind of writer: use a login of another name.'),
    ('credit_not_usable', 409,
        'Credit {credit_id} cannot be the credit of payment {payment_id}: {problem}',
        'Name the credit that was given for this payment, or resolve it as other with a reason.'),
    ('merge_stands', 409, 'The merge cannot be undone: {problem}',
        'Move credits by billing.transfer_credits instead.'),
    ('payment_already_credited', 409, 'Payment {payment_id} was credited or dealt with before',
        'One payment has one credit. Leave the external id out of a credit that is not for the'
        ' payment.'),
    ('payment_attached', 409, 'Payment {payment_id} belongs to another purchase',
        'SELECT * FROM billing.find_purchase(p_payment_id => ...);'),
    ('payment_event_not_found', 404, 'Payment event not found: {event_id}',
        'SELECT * FROM billing.list_payment_problems();'),
    ('payment_not_found', 404, 'Payment not found: {payment_id}',
        'The payment is unknown, or it was not made for a purchase of this service.'),
    ('payment_not_resolved', 409, 'Payment {payment_id} cannot be opened again: {problem}',
        'Correct the balance by billing.adjust_credits.'),
    ('payment_not_settled', 409, 'Payment {payment_id} is not paid, so nothing can be refunded',
        'SELECT * FROM billing.find_purchase(p_payment_id => ...);'),
    ('payment_refunded', 409, 'All of payment {payment_id} went back or was asked back',
        'SELECT * FROM billing.list_refunds(p_payment_id => ...);'),
    ('payment_of_another_account', 409, 'Payment {payment_id} was made by another account',
        'Credit the account that the payment was sold to; see billing.find_purchase.'),
    ('payment_return_not_found', 404, 'No open shortfall of {return_id}',
        'SELECT * FROM billing.list_payment_problems();'),
    ('payment_warning_not_found', 404, 'No open warning {warning_id}',
        'SELECT * FROM billing.list_payment_problems();'),
    ('payment_provider_not_configured', 503, 'Payment provider not configured',
        'Set it by `ciris-billing providers set`, which calls billing.set_provider_config.'),
    ('provider_config_changed', 409, 'The provider''s configuration was changed in the meantime',
        'Read it again and repeat the change.'),
    ('permission_missing', 403, 'Missing required permission: {permission}',
        'Create a key that has the permission.'),
    ('refund_not_found', 404, 'Refund not found: {refund_id}',
        'SELECT * FROM billing.list_refunds(p_payment_id => ...);'),
    ('refund_too_great', 422,
        'Of payment {payment_id}, {left} can be refunded at most, and {amount} was asked for',
        'Leave the amount out to refund all that is left.'),
    ('reversal_too_great', 422,
        'Entry {entry_id} can be reversed by {left} at most, and {amount} was asked for',
        'Leave the amount out to reverse all that is left.'),
    ('top_up_card_missing', 409, 'There is no saved card to charge',
        'Buy with save_card, pay, and name that payment in the consent.'),
    ('top_up_not_found', 404, 'The account never had a top-up',
        'SELECT * FROM billing.list_top_ups();'),
    ('top_up_price_changed', 409, 'A top-up costs {price} now',
        'Show the user the present price, and ask for the consent again.'),
    ('session_over', 401, 'Invalid or expired token',
        'Sign in again: no session or token with this hash is open.'),
    ('webhook_endpoint_in_use', 409, 'The endpoint is {status}: switch it off first',
        'SELECT * FROM billing.set_webhook_endpoint(p_status => ''off'', ...);'),
    ('webhook_endpoint_not_found', 404, 'No webhook endpoint {endpoint_id}',
        'SELECT * FROM billing.list_webhook_endpoints();'),
    ('webhook_endpoint_off', 409, 'The endpoint is switched off: nothing is sent to it',
        'Try it and switch it on first.'),
    ('webhook_not_tried', 409,
        'The endpoint must accept a test event at this address before it is switched on',
        'Try it in the console; a server must send the event.')
) AS e (slug, http_status, message, hint);
COMMENT ON VIEW billing.errors IS
    'Every refusal a function makes: SQLSTATE, HTTP status, wording with {placeholders}, hint.';
GRANT SELECT ON billing.errors TO billing_server, billing_dba, billing_analyst;

-- The wording of an error with its placeholders filled. Every placeholder is replaced in one pass,
-- because a value may hold text that looks like a placeholder.
CREATE OR REPLACE FUNCTION billing_data.filled(p_wording text, p_values jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(
        p.before || CASE WHEN p.name <> '' THEN coalesce(p_values ->> p.name, 'null') ELSE '' END,
        '' ORDER BY p.place
    )
    FROM regexp_matches(p_wording, '([^{}]*)[{]?([a-z_]*)[}]?', 'g')
        WITH ORDINALITY AS m (found, place)
    CROSS JOIN LATERAL (SELECT m.place, m.found[1], m.found[2]) AS p (place, before, name)
$$;
COMMENT ON FUNCTION billing_data.filled IS
    'The wording of an error with its placeholders filled. Helper.';

-- Raises the catalogued error p_slug. The values in p_values fill its placeholders and are also the
-- DETAIL, as JSON for machines. CONSTRAINT is the slug. A text in p_values that is too long to be
-- repeated is cut. The function never returns.
CREATE OR REPLACE FUNCTION billing_data.raise_error(p_slug text, p_values jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_error record;
    v_values jsonb := p_values;
BEGIN
    IF length(p_values::text) > 1000 THEN
        SELECT jsonb_object_agg(
            j.key,
            CASE jsonb_typeof(j.value)
                WHEN 'string' THEN to_jsonb(left(j.value #>> '{}', 300))
                ELSE j.value
            END
        )
        INTO STRICT v_values
        FROM jsonb_each(p_values) AS j;
    END IF;
    SELECT e.sqlstate, e.message, e.hint INTO STRICT v_error
    FROM billing.errors AS e
    WHERE e.slug = p_slug;
    RAISE EXCEPTION USING
        ERRCODE = v_error.sqlstate,
        CONSTRAINT = p_slug,
        MESSAGE = billing_data.filled(v_error.message, v_values),
        DETAIL = v_values::text,
        HINT = v_error.hint;
END
$$;
COMMENT ON FUNCTION billing_data.raise_error IS
    'Raises a catalogued error with its placeholders filled. Helper.';

-- Raises invalid_argument unless p_valid is true. It is for callers in psql; the web tier checks
-- the shape of its requests.
CREATE OR REPLACE FUNCTION billing_data.require(p_valid boolean, p_argument text, p_problem text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_valid IS NOT TRUE THEN
        PERFORM billing_data.raise_error(
            'invalid_argument', jsonb_build_object('argument', p_argument, 'problem', p_problem)
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require IS
    'Raises invalid_argument unless a condition holds. Helper.';

-- Raises invalid_argument when a text is longer than p_limit characters. NULL is accepted.
CREATE OR REPLACE FUNCTION billing_data.require_length(
    p_value text, p_limit integer, p_argument text
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        coalesce(length(p_value), 0) <= p_limit, p_argument,
        format('it must have at most %s characters', p_limit)
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_length IS
    'Raises invalid_argument when a text is too long. Helper.';

-- Raises invalid_argument when an argument is longer than billing_data.most allows for the field of
-- the same name. NULL is accepted.
CREATE OR REPLACE FUNCTION billing_data.require_short(p_value text, p_argument text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_length(
        p_value, billing_data.most(substr(p_argument, 3)), p_argument
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_short IS
    'Raises invalid_argument when an argument is longer than its field may be. Helper.';

-- Raises invalid_argument unless an argument has a character and no more than billing_data.most
-- allows for the field of the same name, or for p_field.
CREATE OR REPLACE FUNCTION billing_data.require_filled(
    p_value text, p_argument text, p_field text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_most integer := billing_data.most(coalesce(p_field, substr(p_argument, 3)));
BEGIN
    PERFORM billing_data.require(
        length(p_value) BETWEEN 1 AND v_most, p_argument,
        format('it must have 1 to %s characters', v_most)
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_filled IS
    'Raises invalid_argument when an argument is empty or longer than its field may be. Helper.';

-- Raises invalid_argument unless a currency is three capital letters.
CREATE OR REPLACE FUNCTION billing_data.require_currency(p_currency text, p_argument text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        p_currency ~ '^[A-Z]{3}$', p_argument, 'it must be three capital letters'
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_currency IS
    'Raises invalid_argument unless a currency is three capital letters. Helper.';

-- Raises invalid_argument unless a currency has the length of a currency code. The letters are not
-- checked here.
CREATE OR REPLACE FUNCTION billing_data.require_currency_length(p_currency text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_length integer := billing_data.most('currency');
BEGIN
    PERFORM billing_data.require(
        length(p_currency) = v_length, 'p_currency',
        format('it must have %s characters', v_length)
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_currency_length IS
    'Raises invalid_argument unless a currency has three characters. Helper.';

-- Raises invalid_argument unless a reason is given and is not too long.
CREATE OR REPLACE FUNCTION billing_data.require_reason(p_reason text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(length(btrim(p_reason)) > 0, 'p_reason', 'a reason is needed');
    PERFORM billing_data.require_short(p_reason, 'p_reason');
END
$$;
COMMENT ON FUNCTION billing_data.require_reason IS
    'Raises invalid_argument unless there is a reason, not too long. Helper.';

-- Raises invalid_argument unless every client can show this time: it must not be infinite, and its
-- year must be 1 to 9999. NULL is accepted.
CREATE OR REPLACE FUNCTION billing_data.require_moment(p_at timestamptz, p_argument text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        p_at IS NULL OR extract(YEAR FROM p_at AT TIME ZONE 'UTC') BETWEEN 1 AND 9999,
        p_argument, 'it must be a moment of the years 1 to 9999'
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_moment IS
    'Raises invalid_argument unless a time is finite and clients can show it. Helper.';

-- Raises invalid_argument unless an array is a list: one dimension, counted from 1, and not too
-- many items. p_shape is the array's array_dims and p_count its cardinality; both are NULL where
-- there is no array.
CREATE OR REPLACE FUNCTION billing_data.require_list(
    p_shape text, p_count integer, p_argument text, p_field text DEFAULT 'items'
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_shape <> '[1:' || p_count || ']' THEN
        PERFORM billing_data.require(false, p_argument, 'it must be a list of one dimension');
    ELSIF p_count > billing_data.most(p_field) THEN
        PERFORM billing_data.require(
            false, p_argument,
            format('it must have at most %s items', billing_data.most(p_field))
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_list IS
    'Raises invalid_argument unless an array is a list, not too long. Helper.';

-- Raises invalid_argument unless p_limit and p_offset name a page of at most p_most rows.
CREATE OR REPLACE FUNCTION billing_data.require_page(
    p_limit bigint, p_offset bigint, p_most bigint
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        p_limit BETWEEN 0 AND p_most, 'p_limit', format('it must be 0 to %s', p_most)
    );
    PERFORM billing_data.require(p_offset >= 0, 'p_offset', 'it must be 0 or more');
END
$$;
COMMENT ON FUNCTION billing_data.require_page IS
    'Raises invalid_argument unless a limit and an offset name a page. Helper.';

-- Raises invalid_argument unless p_most is a number of rows to which a count may go.
CREATE OR REPLACE FUNCTION billing_data.require_most(p_most bigint) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        p_most BETWEEN 1 AND 1000000, 'p_most', 'it must be 1 to 1000000'
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_most IS
    'Raises invalid_argument unless a count may go to a number of rows. Helper.';

-- Raises invalid_argument unless all arrays of a batch are lists of one length that is not too
-- great. The arrays of p_required must be given; those of p_optional may be NULL. Both are lists of
-- lengths. p_shapes has the array_dims of each.
CREATE OR REPLACE FUNCTION billing_data.require_same_length(
    p_required integer[], p_optional integer[], p_shapes text[]
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF array_position(p_required, NULL) IS NOT NULL
        OR p_required[1] <> ANY (p_required || p_optional)
    THEN
        PERFORM billing_data.require(false, 'arrays', 'they must all be given with one length');
    END IF;
    IF '[1:' || p_required[1] || ']' <> ANY (p_shapes) THEN
        PERFORM billing_data.require(false, 'arrays', 'they must be lists of one dimension');
    END IF;
    PERFORM billing_data.require_list(NULL, p_required[1], 'arrays');
END
$$;
COMMENT ON FUNCTION billing_data.require_same_length IS
    'Raises invalid_argument unless a batch''s arrays have one length. Helper.';
