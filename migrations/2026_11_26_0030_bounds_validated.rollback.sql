-- Nothing to undo: the bounds go with the step before.
SELECT 1;
