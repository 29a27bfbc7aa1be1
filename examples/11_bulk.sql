-- Give credits by a list in CSV
--
-- Each line has its outcome, and a list given again grants nothing twice. For long lists, in parts and with a result in CSV:
-- `ciris-billing accounts grant --file november.csv --reason November`.
\set list `cat examples/november.csv`
SELECT line, account, outcome, amount_minor AS amount, balance
FROM billing.grant_credits(p_csv => :'list', p_reason => 'November', p_key_prefix => 'november');
\! ciris-billing accounts grant --file examples/november.csv --reason November --output /dev/null
