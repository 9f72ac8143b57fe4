-- The jobs that `ingest maintain` runs, in the form of status/jobs.timescaledb: those of our policies, and those that somebody
-- made by hand (policy IS NULL). One that was killed counts as running until its next run.
--
-- $1 text[]: our policies.
SELECT CASE WHEN policy = ANY ($1) THEN policy END AS policy,
       CASE WHEN policy = ANY ($1) THEN command ELSE format('%s: %s', policy, command) END AS job,
       config,
       schedule_interval::text          AS schedule_interval,
       scheduled,
       last_started_at                  AS last_run_started_at,
       CASE
           WHEN last_started_at > coalesce(last_finished_at, '-infinity') THEN 'running'
           WHEN last_finished_at IS NULL THEN NULL
           WHEN last_error IS NULL THEN 'success'
           ELSE 'failed'
       END                              AS last_result,
       last_error,
       CASE WHEN scheduled AND isfinite(next_start) THEN next_start END AS next_start,
       runs,
       failures
FROM analytics.maintenance_jobs
ORDER BY (policy = ANY ($1)) DESC, maintenance_jobs.policy
