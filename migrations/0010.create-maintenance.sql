-- What keeps the data in bounds: procedures that the jobs of sql/policies run. Each works in small transactions, may be killed at
-- any moment and goes on where it was at the next run; a DBA may CALL it by hand.
--
-- No batch waits for them. Measured with two connections that stored batches of 1000 without a pause, beside jobs that dropped 20
-- days of rows, refreshed seven days of rollups and forgot 150,000 ids: the longest that a batch waited for a lock was 3.2 ms
-- (TimescaleDB Apache 2.19.3 on PostgreSQL 17) and 1.0 ms (PostgreSQL 18), both for room at the end of a table.
--
-- Needs:    0001 to 0009.
-- Settings: none; a job's config has them.
-- Undo:     remove the jobs, then DROP the procedures and functions named here.

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

-- Finds out by the rollups where raw rows were dropped, whoever dropped them, and notes it: an hour that the rollup has and that
-- no chunk or partition holds any more. From then on no rollup of that time or before is computed again from raw rows, which
-- would empty it, and the service takes no event of then, which would be counted twice if its id is forgotten, too.
CREATE OR REPLACE FUNCTION analytics.note_lost_hours() RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    gap record;
    newest_lost timestamptz;
BEGIN
    FOR gap IN
        SELECT gap_begin, gap_end
        FROM (
            SELECT lag(range_end, 1, '-infinity') OVER (ORDER BY range_start) AS gap_begin, range_start AS gap_end
            FROM analytics.raw_ranges()
        ) gaps
        WHERE gap_begin < gap_end
        ORDER BY gap_begin DESC
    LOOP
        IF (SELECT edition FROM analytics.installation) = 'timescaledb' THEN
            newest_lost := (SELECT max(bucket) FROM analytics.usage_hourly WHERE bucket >= gap.gap_begin AND bucket < gap.gap_end);
        ELSE
            newest_lost := (
                SELECT max(bucket) FROM analytics.usage_hourly_stored WHERE bucket >= gap.gap_begin AND bucket < gap.gap_end);
        END IF;
        IF newest_lost IS NOT NULL THEN
            PERFORM analytics.note_bound('raw_rows_from', newest_lost + interval '1 hour');
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- The time of the oldest event whose id is remembered; NULL where there is none. The ledger has no index that is ordered by time,
-- and reading all of it may take minutes: the day is found by halving, each step a question to the BRIN index.
CREATE OR REPLACE FUNCTION analytics.oldest_id_time() RETURNS timestamptz
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    days_back integer := 36525;
    days_near integer := -1;
    middle integer;
BEGIN
    WHILE days_back - days_near > 1 LOOP
        middle := (days_back + days_near) / 2;
        IF EXISTS (SELECT FROM analytics.usage_event_ids WHERE event_time < now() - make_interval(days => middle)) THEN
            days_near := middle;
        ELSE
            days_back := middle;
        END IF;
    END LOOP;
    RETURN (SELECT min(event_time) FROM analytics.usage_event_ids WHERE event_time < now() - make_interval(days => days_near));
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

-- PostgreSQL: makes the partitions that the next days need, so that no batch has to. Config: {"chunk_time_interval_hours": 24}.
-- Three of them ahead, and at least three days.
CREATE OR REPLACE PROCEDURE analytics.make_partitions_ahead(parent_table text, config jsonb)
LANGUAGE plpgsql
AS $$
DECLARE
    width constant interval := make_interval(hours => (config ->> 'chunk_time_interval_hours')::integer);
    moment timestamptz := now();
    last_moment constant timestamptz := now() + greatest(3 * width, interval '3 days');
BEGIN
    WHILE moment <= last_moment LOOP
        SELECT upper_bound INTO STRICT moment FROM analytics.ensure_partition(parent_table, moment, width);
        COMMIT;
    END LOOP;
END
$$;

-- Refreshes usage_hourly, usage_daily and usage_daily_by_user where they are tables (0009). No config.
--
-- An hour, a month of days, or a day by user is one transaction, which reads raw rows and writes rollups: no batch waits for it.
CREATE OR REPLACE PROCEDURE analytics.refresh_rollup_tables()
LANGUAGE plpgsql
AS $$
DECLARE
    -- Taken by each part anew, so that one refresh at a time works and none that failed is in the way.
    lock_key constant bigint := hashtextextended('analytics.refresh_rollups', 0);
    epoch constant timestamptz := '2000-01-01 00:00:00+00';
    this_hour constant timestamptz := date_bin('1 hour', now(), epoch);
    today constant timestamptz := date_bin('1 day', now(), epoch);
    changed timestamptz;
    changed_days timestamptz[];
BEGIN
    -- No JIT: plans with a node a partition take longer to compile than to run.
    PERFORM pg_advisory_xact_lock(lock_key), set_config('jit', 'off', true);
    PERFORM analytics.note_lost_hours();
    -- Every batch left a row: one for each bucket is enough. Buckets that can't be computed any more are let go.
    WITH noted AS (
        DELETE FROM analytics.usage_changes RETURNING rollup, bucket
    )
    INSERT INTO analytics.usage_changes (rollup, bucket)
    SELECT DISTINCT rollup, bucket FROM noted WHERE rollup = 'usage_daily' OR bucket >= analytics.time_bound('raw_rows_from');
    COMMIT;

    -- What a DELETE sees of usage_changes was committed before the statement after it looks at the raw rows: a batch that commits
    -- in between is counted now and, because its note stays, once more in the next run.
    FOR changed IN
        SELECT DISTINCT bucket FROM analytics.usage_changes WHERE rollup = 'usage_hourly' AND bucket < this_hour ORDER BY bucket
    LOOP
        PERFORM pg_advisory_xact_lock(lock_key), set_config('jit', 'off', true);
        DELETE FROM analytics.usage_changes WHERE rollup = 'usage_hourly' AND bucket = changed;
        DELETE FROM analytics.usage_hourly_stored WHERE bucket = changed;
        INSERT INTO analytics.usage_hourly_stored
        SELECT * FROM analytics.aggregate_hours(changed, changed + interval '1 hour');
        INSERT INTO analytics.usage_changes (rollup, bucket)
        VALUES ('usage_daily', date_bin('1 day', changed, epoch)), ('usage_daily_by_user', date_bin('1 day', changed, epoch));
        PERFORM analytics.note_bound('usage_hourly', changed + interval '1 hour');
        COMMIT;
    END LOOP;
    PERFORM analytics.note_bound('usage_hourly', this_hour);
    COMMIT;

    LOOP
        PERFORM pg_advisory_xact_lock(lock_key), set_config('jit', 'off', true);
        changed_days := ARRAY(
            SELECT DISTINCT bucket FROM analytics.usage_changes
            WHERE rollup = 'usage_daily' AND bucket < today
            ORDER BY bucket LIMIT 31);
        EXIT WHEN changed_days = '{}';
        DELETE FROM analytics.usage_changes WHERE rollup = 'usage_daily' AND bucket = ANY (changed_days);
        DELETE FROM analytics.usage_daily_stored WHERE bucket = ANY (changed_days);
        INSERT INTO analytics.usage_daily_stored
        SELECT *
        FROM analytics.aggregate_days(changed_days[1], changed_days[cardinality(changed_days)] + interval '24 hours')
        WHERE bucket = ANY (changed_days);
        PERFORM analytics.note_bound('usage_daily', changed_days[cardinality(changed_days)] + interval '24 hours');
        COMMIT;
    END LOOP;
    PERFORM analytics.note_bound('usage_daily', today);
    COMMIT;

    FOR changed IN
        SELECT DISTINCT bucket FROM analytics.usage_changes
        WHERE rollup = 'usage_daily_by_user' AND bucket < today
        ORDER BY bucket
    LOOP
        PERFORM pg_advisory_xact_lock(lock_key), set_config('jit', 'off', true);
        DELETE FROM analytics.usage_changes WHERE rollup = 'usage_daily_by_user' AND bucket = changed;
        DELETE FROM analytics.usage_daily_by_user_stored WHERE bucket = changed;
        INSERT INTO analytics.usage_daily_by_user_stored
        SELECT * FROM analytics.aggregate_days_by_user(changed, changed + interval '24 hours');
        PERFORM analytics.note_bound('usage_daily_by_user', changed + interval '24 hours');
        COMMIT;
    END LOOP;
    PERFORM analytics.note_bound('usage_daily_by_user', today);
    COMMIT;
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
