SET LOCAL lock_timeout = '1s';

DROP TABLE billing_data.top_up_attempts;
DROP TABLE billing_data.top_ups;
