SELECT s.usename AS login, s.state, left(s.query, 60) AS newest_statement
FROM billing_data.accounts AS a
INNER JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.transactionid = a.xmax AND l.granted
INNER JOIN pg_stat_activity AS s ON s.pid = l.pid
WHERE a.external_id = :'user';
