-- Why was somebody denied?
--
-- The newest denial, in words: what was asked, what there was then, and what would have helped. `p_at` asks for an earlier one.
SELECT sentence, what_helps, refusals, paid_credits_then AS paid_then, would_pass_now
FROM billing.explain_denial(p_account_id => billing.find_account('dan@example.com'))
\gx (format=wrapped columns=100)
