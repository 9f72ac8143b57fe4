-- Notes that a job begins.
--
-- $1 text: the policy.
UPDATE analytics.maintenance_jobs
SET last_started_at = clock_timestamp()
WHERE policy = $1
