-- Why the sender switched an endpoint off: its receiver answered that it is gone. There are 20
-- endpoints at most.
-- depends: 2026_11_26_0133_caps_follow_merges
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.webhook_endpoints
    ADD COLUMN problem text,
    ADD CONSTRAINT webhook_endpoints_problem CHECK (
        length(problem) <= 255 AND (problem IS NULL OR (status = 'off' AND tried_at IS NULL))
    );
