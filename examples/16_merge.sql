-- Merge two accounts of one person, and undo it
--
-- From then on both identities lead to the account that stays. It can be undone until that account has changed.
-- What Dan had before is in his own ledger: `billing.statement(p_account_id => :'dan', p_follow => false)`.
SELECT billing.find_account('dan@example.com') AS dan,
    billing.find_account('eve@example.com') AS eve \gset
SELECT * FROM billing.merge_accounts(p_account_id => :'dan', p_into_account_id => :'eve',
    p_reason => 'one person with two sign-ins') \gx
SELECT account_id = :'eve' AS leads_to_eve, paid_credits AS paid
FROM billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => 'dan');
SELECT credits_moved_back
FROM billing.undo_merge(p_account_id => :'dan', p_reason => 'two people after all');
