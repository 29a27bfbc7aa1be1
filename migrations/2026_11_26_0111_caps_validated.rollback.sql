-- Nothing to undo: the constraints go with the step before.
SET LOCAL lock_timeout = '1s';
