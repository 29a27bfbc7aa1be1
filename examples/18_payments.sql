-- Open payment problems, and closing one
--
-- A payment that names no purchase of ours waits here until a person has dealt with it.
SELECT payment_id, problem, what_is_wrong
FROM billing.list_payment_problems();
SELECT billing.resolve_payment(p_payment_id => 'pi_lost', p_how => 'refunded',
    p_reason => 'refunded in the dashboard');
SELECT count(*) AS open FROM billing.list_payment_problems();
