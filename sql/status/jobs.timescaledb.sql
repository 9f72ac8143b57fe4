-- The jobs on TimescaleDB Community: those of our policies, and those that somebody made by hand (policy IS NULL). The database's
-- own jobs, for all databases alike, are left out. Of several with one procedure the policy's is the owner's first.
SELECT CASE
           WHEN jobs.owner::regrole <> analytics.owner() THEN NULL
           WHEN jobs.job_id > min(jobs.job_id) FILTER (WHERE jobs.owner::regrole = analytics.owner())
                              OVER (PARTITION BY jobs.proc_schema, jobs.proc_name, jobs.hypertable_schema, jobs.hypertable_name)
           THEN NULL
           WHEN jobs.proc_schema = 'analytics' AND jobs.proc_name = 'refresh_rollups' THEN 'usage_events.rollups'
           WHEN jobs.proc_schema = 'analytics' AND jobs.proc_name = 'prune_ledger' THEN 'usage_event_ids.pruning'
           WHEN jobs.hypertable_schema <> 'analytics' OR jobs.hypertable_name NOT IN ('usage_events', 'message_archives') THEN NULL
           WHEN jobs.proc_name = 'policy_compression'
           THEN jobs.hypertable_name || '.compression'
           WHEN jobs.proc_name = 'policy_retention'
           THEN jobs.hypertable_name || '.retention'
       END                                                                  AS policy,
       format('%s %s.%s', jobs.job_id, jobs.proc_schema, jobs.proc_name)    AS job,
       jobs.config - 'hypertable_id' - 'mat_hypertable_id'                  AS config,
       jobs.schedule_interval::text                                         AS schedule_interval,
       jobs.scheduled,
       -- -infinity: it did not run yet.
       CASE WHEN isfinite(stats.last_run_started_at) THEN stats.last_run_started_at END AS last_run_started_at,
       CASE
           WHEN stats.job_status = 'Running' THEN 'running'
           WHEN stats.last_run_status = 'Success' THEN 'success'
           WHEN stats.last_run_status = 'Failed' THEN 'failed'
       END                                                                  AS last_result,
       CASE stats.last_run_status WHEN 'Failed' THEN error.err_message END  AS last_error,
       CASE WHEN jobs.scheduled AND isfinite(stats.next_start) THEN stats.next_start END AS next_start,
       coalesce(stats.total_runs, 0)                                        AS runs,
       coalesce(stats.total_failures, 0)                                    AS failures
FROM timescaledb_information.jobs
LEFT JOIN timescaledb_information.job_stats stats USING (job_id)
LEFT JOIN LATERAL (
    SELECT err_message
    FROM timescaledb_information.job_errors
    WHERE job_errors.job_id = jobs.job_id
    ORDER BY start_time DESC
    LIMIT 1
) error ON true
WHERE jobs.job_id >= 1000
ORDER BY policy NULLS LAST, jobs.job_id
