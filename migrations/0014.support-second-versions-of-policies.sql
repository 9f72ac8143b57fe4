-- What policies are built on, as the second versions of the policy files need it: a policy has settings of its own, a retention
-- that somebody removed does not come back unasked, lost rows are told by the hour, and ids are forgotten only after every service
-- knows it.
--
-- No batch waits for what is here. Measured as in 0010, on these statements: the longest that a batch waited for a lock was 3.2 ms
-- (TimescaleDB Apache 2.19.3 on PostgreSQL 17) and 1.0 ms (PostgreSQL 18).
--
-- Needs:    0001 to 0013.
-- Settings: none.
-- Undo:     0007 and 0010 again, which have the functions as they were; DROP FUNCTION those named here that they don't have.
--
-- analytics.raw_rows_begin and note_lost_days of 0010 stay: on TimescaleDB Community the job of usage_events.rollups.v1 calls them
-- until the next `ingest policies apply`. What only other first versions called is dropped, so that nobody runs these by mistake.

DROP FUNCTION IF EXISTS analytics.setting(text), analytics.check_retention_change(text, interval, interval),
    analytics.rollups_reach(timestamptz);

ALTER TABLE analytics.time_bounds
    DROP CONSTRAINT IF EXISTS time_bounds_name_check,
    ADD CONSTRAINT time_bounds_name_check CHECK (name IN (
        'raw_rows_from', 'ids_from', 'all_refreshed_at', 'usage_hourly', 'usage_daily', 'usage_daily_by_user'));

COMMENT ON TABLE analytics.time_bounds IS
    'raw_rows_from: raw rows of before it were dropped, so rollups of then are final and the service takes no events of then. '
    'ids_from: ids of events before it are forgotten, so the service takes no events of then. '
    'all_refreshed_at: when a refresh began that took all there was, not only what the retention keeps. '
    'A rollup''s name: it holds everything that happened before this moment, but for what is late.';

-- TimescaleDB lets everybody make a job; these names are the owner's.
REVOKE EXECUTE ON FUNCTION analytics.ensure_job(text, text, jsonb, interval, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION analytics.ensure_timescaledb_policy(text, text, text, interval) FROM PUBLIC;

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
    IF present.current_value IS NULL THEN
        RAISE EXCEPTION 'analytics.% has a % by hand, job %, which does not go by %', job_table, job_procedure, present.job_id, job_setting
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Remove that job, then apply again.';
    END IF;
    SELECT timezone INTO zone FROM _timescaledb_config.bgw_job WHERE id = present.job_id;
    -- The whole config is replaced: what else is in it is kept.
    PERFORM alter_job(
        present.job_id, config => present.config || jsonb_build_object(job_setting, job_value), timezone => zone);
    RETURN true;
END
$$;

-- How long the rows of a table are kept by the policy in force; NULL where there is none.
CREATE OR REPLACE FUNCTION analytics.retention_in_force(retained_table text) RETURNS interval
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF (SELECT edition FROM analytics.installation) <> 'timescaledb' THEN
        RETURN (
            SELECT make_interval(days => (config ->> 'retention_days')::integer + 3)
            FROM analytics.maintenance_jobs
            WHERE policy = retained_table || '.retention');
    END IF;
    RETURN (
        -- By the time of chunks' making (drop_created_before) is no age of rows: as good as for ever.
        SELECT coalesce((config ->> 'drop_after')::interval, interval '1000 years')
        FROM timescaledb_information.jobs
        WHERE proc_name = 'policy_retention' AND hypertable_schema = 'analytics' AND hypertable_name = retained_table);
END
$$;

-- Whether a retention of so many days deletes rows that are kept now: by a longer one in force, or because somebody has removed
-- the one that was applied. The first one ever does not count.
CREATE OR REPLACE FUNCTION analytics.retention_deletes(retained_table text, retention_days integer) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(
        make_interval(days => retention_days + 3) < analytics.retention_in_force(retained_table),
        EXISTS (SELECT FROM analytics.policy_history WHERE policy = retained_table || '.retention'))
$$;

-- Stops a retention that would delete such rows, unless the session says SET analytics.allow_data_loss = on (which is what
-- `ingest policies apply --allow-data-loss` says).
CREATE OR REPLACE FUNCTION analytics.check_retention(retained_table text, retention_days integer) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF analytics.retention_deletes(retained_table, retention_days)
       AND coalesce(current_setting('analytics.allow_data_loss', true), '') <> 'on'
    THEN
        RAISE EXCEPTION 'analytics.% keeps its rows %; a retention of % days would delete some of them',
            retained_table, coalesce('for ' || analytics.retention_in_force(retained_table), 'for ever'), retention_days
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run `ingest policies apply --allow-data-loss`, or SET analytics.allow_data_loss = on.';
    END IF;
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
           (SELECT coalesce(jsonb_object_agg(name, analytics.setting(name, policy_name)), '{}')
            FROM unnest(setting_names) name),
           coalesce(analytics.policy_state(policy_name), '{}')
    FROM analytics.installation
$$;

-- The spans of time that chunks or partitions of usage_events hold.
CREATE OR REPLACE FUNCTION analytics.raw_ranges() RETURNS TABLE (range_start timestamptz, range_end timestamptz)
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF (SELECT edition FROM analytics.installation) = 'postgresql' THEN
        RETURN QUERY SELECT p.lower_bound, p.upper_bound FROM analytics.partitions p WHERE p.table_name = 'usage_events';
    ELSE
        RETURN QUERY
            SELECT c.range_start, c.range_end
            FROM timescaledb_information.chunks c
            WHERE c.hypertable_schema = 'analytics' AND c.hypertable_name = 'usage_events';
    END IF;
END
$$;

-- Forgets the ids of events that the service would not take any more: DEDUPE_WINDOW_DAYS and a day more. Config:
-- {"dedupe_window_days": 180}. `job_id` is what TimescaleDB passes; any number does.
--
-- It says first up to when, and forgets that in a later run, two minutes later at least: services read the bound once a minute, and
-- one with a longer window than this must not take an event whose id is gone. 10,000 ids a transaction: a batch that waits for one
-- of these rows waits for no longer than that takes. The ids of archives go with those of their events.
CREATE OR REPLACE PROCEDURE analytics.prune_ledger(job_id integer, config jsonb)
LANGUAGE plpgsql
AS $$
DECLARE
    batch_rows constant integer := 10000;
    oldest_wanted constant timestamptz :=
        now() - make_interval(hours => 24 * ((config ->> 'dedupe_window_days')::integer + 1));
    -- NULL, and so nothing is forgotten, where nothing was said two minutes ago.
    said_before constant timestamptz := (
        SELECT moment FROM analytics.time_bounds WHERE name = 'ids_from' AND noted_at < now() - interval '2 minutes');
    pruned bigint;
BEGIN
    IF EXISTS (SELECT FROM analytics.usage_event_ids WHERE event_time < oldest_wanted) THEN
        PERFORM analytics.note_bound('ids_from', oldest_wanted);
        COMMIT;
    END IF;
    LOOP
        DELETE FROM analytics.usage_event_ids
        WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM analytics.usage_event_ids WHERE event_time < said_before AND event_time < oldest_wanted
            LIMIT batch_rows));
        GET DIAGNOSTICS pruned = ROW_COUNT;
        EXIT WHEN pruned = 0;
        COMMIT;
    END LOOP;
END
$$;

-- PostgreSQL and TimescaleDB's Apache edition: the statements that drop what is past the retention, the oldest first, each to
-- be run by itself. Config: {"retention_days": 180}. By hand: SELECT … \gexec
--
-- * Three days more than the retention, so that an event which was just young enough is in the rollups before it goes.
-- * No raw rows go before the rollups have them, and that they go is noted before, so that no late event of then is counted alone.
-- * PostgreSQL: DETACH … CONCURRENTLY lets batches go on, which DROP and a plain DETACH do not: they take ACCESS EXCLUSIVE
--   on the parent. A mark on the partition says that it is ours to drop, should the next step never come.
CREATE OR REPLACE FUNCTION analytics.statements_to_drop(parent_table text, config jsonb) RETURNS TABLE (statement text)
LANGUAGE plpgsql
AS $$
DECLARE
    mark constant text := 'past the retention, to be dropped';
    drop_before timestamptz := now() - make_interval(hours => 24 * ((config ->> 'retention_days')::integer + 3));
BEGIN
    IF parent_table = 'usage_events' THEN
        drop_before := least(
            drop_before,
            analytics.time_bound('usage_hourly'), analytics.time_bound('usage_daily'),
            analytics.time_bound('usage_daily_by_user'),
            (SELECT min(bucket) FROM analytics.usage_changes));
    END IF;

    IF (SELECT edition FROM analytics.installation) <> 'postgresql' THEN
        RETURN QUERY
            SELECT command
            FROM timescaledb_information.chunks
            CROSS JOIN LATERAL (VALUES
                (1, format('SELECT analytics.note_bound(%L, %L)', 'raw_rows_from', range_end)),
                (2, format('SELECT drop_chunks(%L, older_than => %L::timestamptz)', 'analytics.' || parent_table, range_end))
            ) AS steps (step, command)
            WHERE hypertable_schema = 'analytics' AND hypertable_name = parent_table AND range_end <= drop_before
              AND (step = 2 OR parent_table = 'usage_events')
            ORDER BY range_end, step;
        RETURN;
    END IF;

    RETURN QUERY
        WITH partitions AS (
            SELECT format('analytics.%I', partition_name) AS partition, lower_bound, upper_bound, inhdetachpending,
                   coalesce(obj_description(inhrelid, 'pg_class') = mark, false) AS is_marked
            FROM analytics.partitions
            JOIN pg_inherits ON inhrelid = format('analytics.%I', partition_name)::regclass
            WHERE table_name = parent_table
        ), expired AS (
            SELECT * FROM partitions WHERE upper_bound <= drop_before OR (is_marked AND inhdetachpending)
        ), detached AS (
            SELECT format('analytics.%I', relname) AS partition
            FROM pg_class
            WHERE relnamespace = 'analytics'::regnamespace AND relkind = 'r' AND NOT relispartition
              AND starts_with(relname, parent_table || '_p') AND obj_description(oid, 'pg_class') = mark
        ), steps AS (
            -- Marked by a run that did not come to detach it, and kept for longer now.
            SELECT lower_bound, 0 AS step, format('COMMENT ON TABLE %s IS NULL', partition) AS command
            FROM partitions
            WHERE is_marked AND partition NOT IN (SELECT e.partition FROM expired e)
            UNION ALL
            SELECT lower_bound, 1, format('SELECT analytics.note_bound(%L, %L)', 'raw_rows_from', upper_bound)
            FROM expired
            WHERE parent_table = 'usage_events'
            UNION ALL
            SELECT lower_bound, 2, format('COMMENT ON TABLE %s IS %L', partition, mark)
            FROM expired
            UNION ALL
            SELECT lower_bound, 3, format('ALTER TABLE analytics.%I DETACH PARTITION %s %s', parent_table, partition,
                                          CASE WHEN inhdetachpending THEN 'FINALIZE' ELSE 'CONCURRENTLY' END)
            FROM expired
            UNION ALL
            SELECT lower_bound, 4, format('DROP TABLE %s', partition) FROM expired
            UNION ALL
            SELECT '-infinity', 5, format('DROP TABLE %s', partition) FROM detached
        )
        SELECT command FROM steps ORDER BY lower_bound, step;
END
$$;
