-- Nothing to undo: the constraint goes with the step before.
SET LOCAL lock_timeout = '1s';
