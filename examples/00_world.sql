-- What the examples need
--
-- A few people and what they did. In a database for trying things out, not in production.
SELECT billing.check_credit(p_oauth_provider => 'oauth:google', p_external_id => w.name,
    p_customer_email => w.name || '@example.com', p_marketing_opt_in => w.name = 'ada',
    p_marketing_opt_in_source => 'sign-up')
FROM (VALUES ('ada'), ('ben'), ('chloe'), ('dan'), ('eve')) AS w (name) \g /dev/null
SELECT billing.create_credit(p_oauth_provider => 'oauth:google', p_external_id => w.name,
    p_amount_minor => w.amount, p_description => 'Welcome', p_idempotency_key => 'welcome')
FROM (VALUES ('ada', 10), ('ben', 30), ('chloe', 5)) AS w (name, amount) \g /dev/null
SELECT billing.create_charge(p_oauth_provider => 'oauth:google', p_external_id => w.name,
    p_amount_minor => 1, p_description => 'An answer', p_idempotency_key => 'answer-' || n)
FROM (VALUES ('ada', 9), ('ben', 5), ('chloe', 4), ('dan', 3)) AS w (name, uses),
    generate_series(1, w.uses) AS n
ORDER BY w.name, n \g /dev/null
SELECT billing.check_credit(p_oauth_provider => 'oauth:google', p_external_id => 'dan') \g /dev/null
SELECT billing.process_payment_event(p_event_id => 'evt_lost', p_payment_id => 'pi_lost',
    p_event_type => 'payment_intent.succeeded', p_payload => '{}', p_action => 'settle',
    p_amount_minor => 500, p_currency => 'usd') \g /dev/null
SELECT billing.set_admin_domain(p_domain => 'example.com', p_reason => 'the examples') \g /dev/null
