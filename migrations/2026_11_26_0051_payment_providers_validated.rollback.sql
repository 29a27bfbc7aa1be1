-- Nothing to undo: the references go with the step before.
SET LOCAL lock_timeout = '1s';
