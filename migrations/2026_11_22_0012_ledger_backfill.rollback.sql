-- The values go with their columns in the rollback of the step before.
SET LOCAL lock_timeout = '5s';
