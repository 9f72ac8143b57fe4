-- Which job is the policy's, where there are several that run the same procedure: the owner's, and of these the first that was
-- made. All others are somebody's own, and left alone.
--
-- Needs:    0001 to 0012.
-- Settings: none.
-- Undo:     0007 again, which has the functions as they were; DROP FUNCTION analytics.owner();

-- The owner of the tables, whoever asks.
CREATE OR REPLACE FUNCTION analytics.owner() RETURNS regrole
LANGUAGE sql STABLE
AS $$
    SELECT relowner::regrole FROM pg_class WHERE oid = 'analytics.installation'::regclass
$$;

-- Makes the job that runs a policy, or changes the config of the one there is; never makes a second. Its schedule is the
-- DBA's to change. On TimescaleDB Community `command` is the name of a procedure (job_id integer, config jsonb), run by the
-- database's scheduler; elsewhere it is a statement, see analytics.maintenance_jobs.
CREATE OR REPLACE FUNCTION analytics.ensure_job(
    job_policy text, job_command text, job_config jsonb, job_interval interval, job_order integer DEFAULT 0)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    present record;
    zone text;
BEGIN
    IF (SELECT edition FROM analytics.installation) <> 'timescaledb' THEN
        INSERT INTO analytics.maintenance_jobs AS job (policy, run_order, command, config, schedule_interval)
        VALUES (job_policy, job_order, job_command, job_config, job_interval)
        ON CONFLICT (policy) DO UPDATE
        SET run_order = excluded.run_order, command = excluded.command, config = excluded.config, next_start = now()
        WHERE (job.run_order, job.command, job.config) IS DISTINCT FROM
              (excluded.run_order, excluded.command, excluded.config);
        RETURN;
    END IF;

    -- A job has the rights of who made it.
    IF pg_get_userbyid(analytics.owner()) <> current_user THEN
        RAISE EXCEPTION 'the jobs of policies are to be those of %, and this is %', analytics.owner(), current_user
            USING ERRCODE = 'insufficient_privilege', HINT = format('SET ROLE %s;', analytics.owner());
    END IF;
    SELECT job_id, config INTO present
    FROM timescaledb_information.jobs
    WHERE format('%s.%s', proc_schema, proc_name) = job_command AND owner::regrole = analytics.owner()
    ORDER BY job_id
    LIMIT 1;
    IF NOT FOUND THEN
        -- Without a limit of retries: a job that gave up would be found too late.
        PERFORM alter_job(
            add_job(job_command::regproc, job_interval, config => job_config, fixed_schedule => false),
            max_retries => -1, retry_period => least(job_interval, interval '15 minutes'));
    ELSIF present.config IS DISTINCT FROM job_config THEN
        -- alter_job forgets the time zone of a job unless it is told.
        SELECT timezone INTO zone FROM _timescaledb_config.bgw_job WHERE id = present.job_id;
        PERFORM alter_job(present.job_id, config => job_config, timezone => zone);
    END IF;
END
$$;

-- What a policy is in the database now, by its name `<table>.<kind>`; NULL where there is nothing of it. What a DBA may tune
-- without changing what the policy does (schedules, pauses) is left out.
CREATE OR REPLACE FUNCTION analytics.policy_state(policy_name text) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    policy_table constant text := split_part(policy_name, '.', 1);
    policy_kind constant text := split_part(policy_name, '.', 2);
    state jsonb;
BEGIN
    IF (SELECT edition FROM analytics.installation) <> 'timescaledb' THEN
        SELECT jsonb_build_object('command', command) || config INTO state
        FROM analytics.maintenance_jobs
        WHERE policy = policy_name;
        RETURN state;
    END IF;

    SELECT config - 'hypertable_id' INTO state
    FROM timescaledb_information.jobs
    WHERE CASE policy_kind
              WHEN 'compression' THEN proc_name = 'policy_compression' AND hypertable_name = policy_table
              WHEN 'retention' THEN proc_name = 'policy_retention' AND hypertable_name = policy_table
              WHEN 'rollups' THEN proc_schema = 'analytics' AND proc_name = 'refresh_rollups'
              WHEN 'pruning' THEN proc_schema = 'analytics' AND proc_name = 'prune_ledger'
          END
      AND (hypertable_schema = 'analytics' OR hypertable_schema IS NULL)
      AND owner::regrole = analytics.owner()
    ORDER BY job_id
    LIMIT 1;
    IF policy_kind = 'compression' AND state IS NOT NULL THEN
        SELECT state || jsonb_build_object('orderby', orderby, 'segmentby', segmentby) INTO state
        FROM timescaledb_information.hypertable_columnstore_settings
        WHERE hypertable = format('analytics.%I', policy_table)::regclass;
    ELSIF policy_kind = 'rollups' AND state IS NOT NULL THEN
        SELECT state || jsonb_object_agg(view_name, CASE WHEN materialized_only THEN 'materialized only' ELSE 'real-time' END)
        INTO state
        FROM timescaledb_information.continuous_aggregates
        WHERE view_schema = 'analytics' AND view_name IN ('usage_hourly', 'usage_daily', 'usage_daily_by_user');
    END IF;
    RETURN state;
END
$$;
