SET LOCAL lock_timeout = '1s';
DELETE FROM billing_data.locks AS l WHERE l.name = 'maintenance';
