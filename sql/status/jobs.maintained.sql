-- The jobs that `ingest maintain` runs, in the form of status/jobs.timescaledb. One that was killed counts as running until its
-- next run.
SELECT policy,
       command                          AS job,
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
       CASE WHEN scheduled THEN next_start END AS next_start,
       runs,
       failures
FROM analytics.maintenance_jobs
ORDER BY policy
