-- Settings of policy files, for the transaction in which they run.
--
-- $1 jsonb: {"retention_days": "180", …} becomes analytics.retention_days and so on.
SELECT set_config('analytics.' || name, value, true)
FROM jsonb_each_text($1::jsonb) AS setting (name, value)
