SET LOCAL lock_timeout = '1s';

DROP TABLE billing_data.announced_lots;
