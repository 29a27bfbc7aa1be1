-- Nothing to undo: the bounds go with the step before.
SET LOCAL lock_timeout = '1s';
