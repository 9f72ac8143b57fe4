-- Rollups on TimescaleDB Community: continuous aggregates analytics.usage_hourly, analytics.usage_daily on top of it and
-- analytics.usage_daily_by_user, and the job that refreshes them. They are real-time: what is not materialized yet is computed
-- from the raw rows by the query. Only what arrives late, for a bucket that is materialized already, waits for the next refresh.
--
-- Needs:    migrations 0001 to 0010.
-- Settings: analytics.retention_days (what was applied last, or 180): how far back the job refreshes, two days more than that.
-- Undo:     SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE proc_name = 'refresh_rollups';
--           DROP MATERIALIZED VIEW analytics.usage_daily_by_user, analytics.usage_daily, analytics.usage_hourly, one by one:
--           what is older than the retention is nowhere else.
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
BEGIN
    IF to_regclass('analytics.usage_hourly') IS NULL THEN
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
END
$$;

-- Computes anew what changed in the buckets that are over. TimescaleDB knows by its invalidation log what that is.
--
-- config: {"retention_days": 180}: how far back to look. Without it, all that there is: CALL analytics.refresh_rollups(0, '{}');
-- job_id: what the scheduler passes; any number does.
--
-- Thirty days of one rollup are one transaction. A refresh that is killed goes on where it was, in the next.
CREATE OR REPLACE PROCEDURE analytics.refresh_rollups(job_id integer, config jsonb)
LANGUAGE plpgsql
AS $$
DECLARE
    epoch constant timestamptz := '2000-01-01 00:00:00+00';
    oldest timestamptz;
    first_day timestamptz;
    rollup text;
    part_begin timestamptz;
    part_end timestamptz;
    whole_until timestamptz;
BEGIN
    -- One at a time; held by the session, because every part is a transaction of its own.
    PERFORM pg_advisory_lock(hashtextextended('analytics.refresh_rollups', 0));
    PERFORM analytics.note_lost_days();
    COMMIT;

    oldest := analytics.raw_rows_begin();
    first_day := date_bin('1 day', greatest(
        oldest,
        analytics.time_bound('raw_rows_from'),
        now() - make_interval(days => (config ->> 'retention_days')::integer + 2)), epoch);
    FOREACH rollup IN ARRAY ARRAY['usage_hourly', 'usage_daily', 'usage_daily_by_user'] LOOP
        EXIT WHEN oldest IS NULL;
        whole_until := date_bin(CASE rollup WHEN 'usage_hourly' THEN interval '1 hour' ELSE '1 day' END, now(), epoch);
        part_begin := first_day;
        WHILE part_begin < whole_until LOOP
            part_end := least(part_begin + interval '30 days', whole_until);
            RAISE NOTICE '% from % to %', rollup, part_begin, part_end;
            CALL refresh_continuous_aggregate(format('analytics.%I', rollup)::regclass, part_begin, part_end);
            COMMIT;
            part_begin := part_end;
        END LOOP;
        -- A refresh that did not begin where the raw rows begin says nothing about what lies between.
        IF first_day <= oldest OR analytics.time_bound(rollup) >= first_day THEN
            PERFORM analytics.note_bound(rollup, whole_until);
            COMMIT;
        END IF;
    END LOOP;
    PERFORM pg_advisory_unlock(hashtextextended('analytics.refresh_rollups', 0));
END
$$;

SELECT analytics.ensure_job(
    'usage_events.rollups', 'analytics.refresh_rollups',
    jsonb_build_object('retention_days', analytics.setting('retention_days')), interval '10 minutes');

SELECT analytics.record_policy('usage_events.rollups', 1, ARRAY['retention_days']);
