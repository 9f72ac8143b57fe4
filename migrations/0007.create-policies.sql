-- What policies are built on: what was applied and when, which moments bound what is still known, and, where the database
-- has no scheduler, the jobs that `ingest maintain` runs. The policies themselves are the files in sql/policies.
--
-- Needs:    0001 to 0005.
-- Settings: none.
-- Undo:     drop the functions, then DROP TABLE analytics.maintenance_jobs, analytics.time_bounds, analytics.policy_history.
--           Without time_bounds, what was dropped could be taken for what was never there.

CREATE TABLE IF NOT EXISTS analytics.policy_history (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text        NOT NULL DEFAULT session_user,
    policy     text        NOT NULL,
    file       text        NOT NULL,
    checksum   text,
    settings   jsonb       NOT NULL,
    state      jsonb       NOT NULL
);

COMMENT ON TABLE analytics.policy_history IS
    'Every application of a policy file, by `ingest policies apply` or by hand.';
COMMENT ON COLUMN analytics.policy_history.checksum IS
    'SHA-256 of the file, as `ingest policies apply` read it; NULL where a person ran it.';
COMMENT ON COLUMN analytics.policy_history.state IS
    'What analytics.policy_state said right afterwards: the plan finds by it what was changed by hand since.';

-- Kept apart from the data they are about, because they must outlive it.
CREATE TABLE IF NOT EXISTS analytics.time_bounds (
    name     text        PRIMARY KEY CHECK (name IN (
                             'raw_rows_from', 'ids_from', 'usage_hourly', 'usage_daily', 'usage_daily_by_user')),
    moment   timestamptz NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE analytics.time_bounds IS
    'raw_rows_from: days before it have lost raw rows, so their rollups are final and the service takes no events of then. '
    'ids_from: ids of events before it are forgotten, so the service takes no events of then. '
    'A rollup''s name: it holds everything that happened before this moment, but for what is late.';

-- One row a job, where the database has no scheduler of its own. `ingest maintain` runs what is due.
CREATE TABLE IF NOT EXISTS analytics.maintenance_jobs (
    policy            text        PRIMARY KEY,
    run_order         smallint    NOT NULL,
    command           text        NOT NULL,
    config            jsonb       NOT NULL,
    schedule_interval interval    NOT NULL,
    scheduled         boolean     NOT NULL DEFAULT true,
    next_start        timestamptz NOT NULL DEFAULT now(),
    last_started_at   timestamptz,
    last_finished_at  timestamptz,
    last_error        text,
    runs              bigint      NOT NULL DEFAULT 0,
    failures          bigint      NOT NULL DEFAULT 0
);

COMMENT ON TABLE analytics.maintenance_jobs IS
    'What `ingest maintain` runs, on PostgreSQL and on TimescaleDB''s Apache edition; empty where TimescaleDB schedules jobs.';
COMMENT ON COLUMN analytics.maintenance_jobs.command IS
    '$1 is the config. If it returns rows, the first column is a statement to be run, each by itself, as psql''s \gexec does.';
COMMENT ON COLUMN analytics.maintenance_jobs.scheduled IS 'Set it to false to pause the job.';

-- A setting of a policy file: what the session sets (SET analytics.retention_days = 365), else what was applied last, else the
-- product's default. So a file that a DBA runs again by hand changes nothing that was chosen before.
CREATE OR REPLACE FUNCTION analytics.setting(setting_name text) RETURNS integer
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(
        nullif(current_setting('analytics.' || setting_name, true), '')::integer,
        (SELECT (settings ->> setting_name)::integer
         FROM analytics.policy_history
         WHERE settings ? setting_name
         ORDER BY id DESC
         LIMIT 1),
        CASE setting_name
            WHEN 'compression_after_days' THEN 7
            WHEN 'retention_days' THEN 180
            WHEN 'dedupe_window_days' THEN 180
            WHEN 'chunk_time_interval_hours' THEN 24
        END)
$$;

-- Moves a bound forward; never back.
CREATE OR REPLACE FUNCTION analytics.note_bound(bound_name text, bound_moment timestamptz) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO analytics.time_bounds AS bound (name, moment)
    VALUES (bound_name, bound_moment)
    ON CONFLICT (name) DO UPDATE
    SET moment = excluded.moment, noted_at = now()
    WHERE bound.moment < excluded.moment
$$;

-- The moment of a bound; -infinity while there is none.
CREATE OR REPLACE FUNCTION analytics.time_bound(bound_name text) RETURNS timestamptz
LANGUAGE sql STABLE
AS $$
    SELECT coalesce((SELECT moment FROM analytics.time_bounds WHERE name = bound_name), '-infinity')
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

    SELECT job_id, config INTO present
    FROM timescaledb_information.jobs
    WHERE format('%s.%s', proc_schema, proc_name) = job_command
      AND pg_has_role(owner, 'USAGE'); -- anybody may make a job that can do nothing
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

-- As ensure_job, for the policies that TimescaleDB Community brings: policy_retention and policy_compression. `job_setting`
-- is the one setting in the job's config, `job_value` what it is to be. Returns whether it made or changed the job.
CREATE OR REPLACE FUNCTION analytics.ensure_timescaledb_policy(
    job_table text, job_procedure text, job_setting text, job_value interval)
RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    present record;
    zone text;
BEGIN
    SELECT job_id, config, (config ->> job_setting)::interval AS current_value INTO present
    FROM timescaledb_information.jobs
    WHERE proc_name = job_procedure AND hypertable_schema = 'analytics' AND hypertable_name = job_table;
    IF NOT FOUND THEN
        IF job_procedure = 'policy_retention' THEN
            PERFORM add_retention_policy(format('analytics.%I', job_table)::regclass, drop_after => job_value);
        ELSE
            CALL add_columnstore_policy(format('analytics.%I', job_table)::regclass, after => job_value);
        END IF;
        RETURN true;
    END IF;
    IF present.current_value = job_value THEN
        RETURN false;
    END IF;
    SELECT timezone INTO zone FROM _timescaledb_config.bgw_job WHERE id = present.job_id;
    -- The whole config is replaced: what else is in it is kept.
    PERFORM alter_job(
        present.job_id, config => present.config || jsonb_build_object(job_setting, job_value), timezone => zone);
    RETURN true;
END
$$;

-- Stops a change that would delete rows which the policy in force keeps, unless the session says
-- SET analytics.allow_data_loss = on (which is what `ingest policies apply --allow-data-loss` says).
CREATE OR REPLACE FUNCTION analytics.check_retention_change(retained_table text, kept interval, wanted interval) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF wanted < kept AND coalesce(current_setting('analytics.allow_data_loss', true), '') <> 'on' THEN
        RAISE EXCEPTION 'analytics.% keeps its rows for % now; % would delete some of them', retained_table, kept, wanted
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run `ingest policies apply --allow-data-loss`, or SET analytics.allow_data_loss = on.';
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
      AND pg_has_role(owner, 'USAGE');
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

-- Writes the history; every policy file ends with it. `ingest policies apply` tells the checksum by the session.
CREATE OR REPLACE FUNCTION analytics.record_policy(policy_name text, policy_version integer, setting_names text[]) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO analytics.policy_history (policy, file, checksum, settings, state)
    SELECT policy_name,
           format('%s/%s.v%s.sql', edition, policy_name, policy_version),
           nullif(current_setting('analytics.policy_checksum', true), ''),
           (SELECT coalesce(jsonb_object_agg(name, analytics.setting(name)), '{}') FROM unnest(setting_names) name),
           coalesce(analytics.policy_state(policy_name), '{}')
    FROM analytics.installation
$$;
