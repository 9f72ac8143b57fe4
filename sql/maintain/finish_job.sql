-- Notes how a job ended. The next run is due one interval after the end: a job never catches up with runs it missed.
--
-- $1 text: the policy.
-- $2 text: the error; NULL if all went well.
UPDATE analytics.maintenance_jobs
SET last_finished_at = clock_timestamp(),
    last_error = $2::text,
    runs = runs + 1,
    failures = failures + CASE WHEN $2::text IS NULL THEN 0 ELSE 1 END,
    next_start = clock_timestamp() + schedule_interval
WHERE policy = $1
