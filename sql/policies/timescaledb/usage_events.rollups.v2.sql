-- Rollups on TimescaleDB Community: continuous aggregates analytics.usage_hourly, analytics.usage_daily on top of it and
-- analytics.usage_daily_by_user, and the job that refreshes them. They are real-time: what is not materialized yet is computed
-- from the raw rows by the query. Only what arrives late, for a bucket that is materialized already, waits for the next refresh.
--
-- Needs:    migrations 0001 to 0014.
-- Settings: none. The job looks as far back as usage_events.retention keeps the rows.
-- Undo:     SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE proc_name = 'refresh_rollups';
--           DROP MATERIALIZED VIEW analytics.usage_daily_by_user; then analytics.usage_daily; then analytics.usage_hourly; what is
--           older than the retention is nowhere else. Remove the retention before (usage_events.retention).
-- Look:     SELECT * FROM timescaledb_information.job_stats JOIN timescaledb_information.jobs USING (job_id);
--
-- Buckets are of UTC. `errors` counts calls with a status_code of 400 or more or with an error_type. latency_count: calls that
-- have a latency. latency_le: for percentiles, see analytics.latency_percentiles (migration 0008).
--
-- The rollups outlive the raw rows. A refresh over a range whose chunks were dropped would delete the rollup there: dropping
-- a chunk counts as a change of it. So the refresh begins two days past the retention while chunks go three days past it
-- (usage_events.retention), and never before analytics.time_bounds.raw_rows_from. That is why the job is not one of
-- add_continuous_aggregate_policy: its start_offset is fixed, and when the retention grows from 180 to 365 days it would
-- reach back over half a year that is gone. (Tried on TimescaleDB 2.28.3: a refresh over 110 dropped days deleted 2637 of 4800
-- hours.) One job in place of three also refreshes the days right after the hours they are made of.

DO $$
DECLARE
    rollup text;
BEGIN
    IF to_regclass('analytics.usage_hourly') IS NULL THEN
        DELETE FROM analytics.time_bounds WHERE name IN ('usage_hourly', 'all_refreshed_at');
        CREATE MATERIALIZED VIEW analytics.usage_hourly
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
        SELECT time_bucket('1 hour', event_time) AS bucket,
               team, service, provider, model,
               count(*) AS requests,
               count(*) FILTER (WHERE status_code >= 400 OR error_type IS NOT NULL) AS errors,
               sum(total_tokens) AS total_tokens,
               count(latency_ms) AS latency_count,
               sum(latency_ms) AS latency_ms_sum,
               max(latency_ms) AS latency_ms_max,
               ARRAY[
                   count(*) FILTER (WHERE latency_ms <= 10), count(*) FILTER (WHERE latency_ms <= 16),
                   count(*) FILTER (WHERE latency_ms <= 25), count(*) FILTER (WHERE latency_ms <= 40),
                   count(*) FILTER (WHERE latency_ms <= 63), count(*) FILTER (WHERE latency_ms <= 100),
                   count(*) FILTER (WHERE latency_ms <= 160), count(*) FILTER (WHERE latency_ms <= 250),
                   count(*) FILTER (WHERE latency_ms <= 400), count(*) FILTER (WHERE latency_ms <= 630),
                   count(*) FILTER (WHERE latency_ms <= 1000), count(*) FILTER (WHERE latency_ms <= 1600),
                   count(*) FILTER (WHERE latency_ms <= 2500), count(*) FILTER (WHERE latency_ms <= 4000),
                   count(*) FILTER (WHERE latency_ms <= 6300), count(*) FILTER (WHERE latency_ms <= 10000),
                   count(*) FILTER (WHERE latency_ms <= 16000), count(*) FILTER (WHERE latency_ms <= 25000),
                   count(*) FILTER (WHERE latency_ms <= 40000), count(*) FILTER (WHERE latency_ms <= 63000),
                   count(*) FILTER (WHERE latency_ms <= 100000), count(*) FILTER (WHERE latency_ms <= 160000),
                   count(*) FILTER (WHERE latency_ms <= 250000), count(*) FILTER (WHERE latency_ms <= 400000),
                   count(*) FILTER (WHERE latency_ms <= 630000)
               ] AS latency_le
        FROM analytics.usage_events
        GROUP BY 1, 2, 3, 4, 5
        WITH NO DATA;
    END IF;

    IF to_regclass('analytics.usage_daily') IS NULL THEN
        DELETE FROM analytics.time_bounds WHERE name IN ('usage_daily', 'all_refreshed_at');
        CREATE MATERIALIZED VIEW analytics.usage_daily
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
        SELECT time_bucket('1 day', bucket) AS bucket,
               team, service, provider, model,
               sum(requests)::bigint AS requests,
               sum(errors)::bigint AS errors,
               sum(total_tokens)::bigint AS total_tokens,
               sum(latency_count)::bigint AS latency_count,
               sum(latency_ms_sum)::bigint AS latency_ms_sum,
               max(latency_ms_max) AS latency_ms_max,
               ARRAY[
                   sum(latency_le[1]), sum(latency_le[2]), sum(latency_le[3]), sum(latency_le[4]), sum(latency_le[5]),
                   sum(latency_le[6]), sum(latency_le[7]), sum(latency_le[8]), sum(latency_le[9]), sum(latency_le[10]),
                   sum(latency_le[11]), sum(latency_le[12]), sum(latency_le[13]), sum(latency_le[14]), sum(latency_le[15]),
                   sum(latency_le[16]), sum(latency_le[17]), sum(latency_le[18]), sum(latency_le[19]), sum(latency_le[20]),
                   sum(latency_le[21]), sum(latency_le[22]), sum(latency_le[23]), sum(latency_le[24]), sum(latency_le[25])
               ]::bigint[] AS latency_le
        FROM analytics.usage_hourly
        GROUP BY 1, 2, 3, 4, 5
        WITH NO DATA;
    END IF;

    IF to_regclass('analytics.usage_daily_by_user') IS NULL THEN
        DELETE FROM analytics.time_bounds WHERE name IN ('usage_daily_by_user', 'all_refreshed_at');
        CREATE MATERIALIZED VIEW analytics.usage_daily_by_user
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
        SELECT time_bucket('1 day', event_time) AS bucket,
               user_id, team, service, provider, model,
               count(*) AS requests,
               count(*) FILTER (WHERE status_code >= 400 OR error_type IS NOT NULL) AS errors,
               sum(total_tokens) AS total_tokens,
               count(latency_ms) AS latency_count,
               sum(latency_ms) AS latency_ms_sum,
               max(latency_ms) AS latency_ms_max,
               ARRAY[
                   count(*) FILTER (WHERE latency_ms <= 10), count(*) FILTER (WHERE latency_ms <= 16),
                   count(*) FILTER (WHERE latency_ms <= 25), count(*) FILTER (WHERE latency_ms <= 40),
                   count(*) FILTER (WHERE latency_ms <= 63), count(*) FILTER (WHERE latency_ms <= 100),
                   count(*) FILTER (WHERE latency_ms <= 160), count(*) FILTER (WHERE latency_ms <= 250),
                   count(*) FILTER (WHERE latency_ms <= 400), count(*) FILTER (WHERE latency_ms <= 630),
                   count(*) FILTER (WHERE latency_ms <= 1000), count(*) FILTER (WHERE latency_ms <= 1600),
                   count(*) FILTER (WHERE latency_ms <= 2500), count(*) FILTER (WHERE latency_ms <= 4000),
                   count(*) FILTER (WHERE latency_ms <= 6300), count(*) FILTER (WHERE latency_ms <= 10000),
                   count(*) FILTER (WHERE latency_ms <= 16000), count(*) FILTER (WHERE latency_ms <= 25000),
                   count(*) FILTER (WHERE latency_ms <= 40000), count(*) FILTER (WHERE latency_ms <= 63000),
                   count(*) FILTER (WHERE latency_ms <= 100000), count(*) FILTER (WHERE latency_ms <= 160000),
                   count(*) FILTER (WHERE latency_ms <= 250000), count(*) FILTER (WHERE latency_ms <= 400000),
                   count(*) FILTER (WHERE latency_ms <= 630000)
               ] AS latency_le
        FROM analytics.usage_events
        GROUP BY 1, 2, 3, 4, 5, 6
        WITH NO DATA;
    END IF;

    FOR rollup IN
        SELECT view_name
        FROM timescaledb_information.continuous_aggregates
        WHERE view_schema = 'analytics' AND view_name IN ('usage_hourly', 'usage_daily', 'usage_daily_by_user')
          AND materialized_only
    LOOP
        EXECUTE format('ALTER MATERIALIZED VIEW analytics.%I SET (timescaledb.materialized_only = false)', rollup);
    END LOOP;
END
$$;

-- Computes anew what changed in the buckets that are over. TimescaleDB knows by its invalidation log what that is.
--
-- config: {} looks as far back as the retention reaches, less a day; {"everything": true} takes all there is, as the first run
-- does anyway.
-- job_id: what the scheduler passes; any number does.
--
-- Thirty days of one rollup are one transaction. A refresh that is killed goes on where it was, in the next. By hand, as a statement
-- of its own: CALL analytics.refresh_rollups(0, '{"everything": true}'); if it fails: SELECT pg_advisory_unlock_all();
CREATE OR REPLACE PROCEDURE analytics.refresh_rollups(job_id integer, config jsonb)
LANGUAGE plpgsql
AS $$
DECLARE
    epoch constant timestamptz := '2000-01-01 00:00:00+00';
    -- In hours, here and below: a day of the session's time zone may have 23 of them.
    day constant interval := '24 hours';
    begun_at timestamptz;
    oldest timestamptz;
    first_hour timestamptz;
    rollup text;
    part_begin timestamptz;
    part_end timestamptz;
    whole_until timestamptz;
    lock_key constant bigint := hashtextextended('analytics.refresh_rollups', 0);
    jit_before constant text := current_setting('jit');
BEGIN
    -- One at a time. The lock is the session's, because every part is a transaction of its own.
    FOR attempt IN 1 .. 300 LOOP
        EXIT WHEN pg_try_advisory_lock(lock_key);
        IF attempt = 300 THEN
            RAISE EXCEPTION 'another session has been refreshing the rollups for five minutes, or failed to and is still there'
                USING ERRCODE = 'lock_not_available',
                      HINT = 'SELECT pid FROM pg_locks WHERE locktype = ''advisory''; and see what it does.';
        END IF;
        COMMIT; -- who waits should not hold back VACUUM
        PERFORM pg_sleep(1);
    END LOOP;
    -- The plans have a node a chunk: compiling them took most of a minute where running them takes milliseconds.
    PERFORM set_config('jit', 'off', false);
    PERFORM analytics.note_lost_hours();
    COMMIT;

    begun_at := now();
    oldest := (SELECT min(range_start) FROM analytics.raw_ranges());
    first_hour := greatest(oldest, analytics.time_bound('raw_rows_from'));
    IF NOT coalesce((config ->> 'everything')::boolean, false) AND analytics.time_bound('all_refreshed_at') > '-infinity' THEN
        first_hour := greatest(
            first_hour, date_bin(day, now() - analytics.retention_in_force('usage_events') + day, epoch));
    END IF;
    FOREACH rollup IN ARRAY ARRAY['usage_hourly', 'usage_daily', 'usage_daily_by_user'] LOOP
        EXIT WHEN oldest IS NULL;
        whole_until := date_bin(CASE rollup WHEN 'usage_hourly' THEN interval '1 hour' ELSE day END, now(), epoch);
        -- A day of usage_daily is made of hours that are all there still. A day of usage_daily_by_user is made of raw rows:
        -- where some of it were dropped, it is final.
        part_begin := CASE
            WHEN rollup = 'usage_hourly' THEN date_bin(interval '1 hour', first_hour, epoch)
            WHEN rollup = 'usage_daily_by_user' AND first_hour = analytics.time_bound('raw_rows_from')
            THEN date_bin(day, first_hour + day - interval '1 microsecond', epoch)
            ELSE date_bin(day, first_hour, epoch)
        END;
        WHILE part_begin < whole_until LOOP
            part_end := least(part_begin + 30 * day, whole_until);
            RAISE NOTICE '% from % to %', rollup, part_begin, part_end;
            CALL refresh_continuous_aggregate(format('analytics.%I', rollup)::regclass, part_begin, part_end);
            COMMIT;
            part_begin := part_end;
        END LOOP;
        -- A refresh that began after the last one ended says nothing about what lies between.
        IF first_hour <= greatest(oldest, analytics.time_bound('raw_rows_from'), analytics.time_bound(rollup)) THEN
            PERFORM analytics.note_bound(rollup, whole_until);
            COMMIT;
        END IF;
    END LOOP;
    IF first_hour <= greatest(oldest, analytics.time_bound('raw_rows_from')) OR oldest IS NULL THEN
        PERFORM analytics.note_bound('all_refreshed_at', begun_at);
    END IF;
    PERFORM set_config('jit', jit_before, false);
    PERFORM pg_advisory_unlock(lock_key);
    COMMIT;
END
$$;

SELECT analytics.ensure_job('usage_events.rollups', 'analytics.refresh_rollups', '{}', interval '10 minutes');

SELECT analytics.record_policy('usage_events.rollups', 2, '{}');
