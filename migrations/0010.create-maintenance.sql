-- What keeps the data in bounds: procedures that the jobs of sql/policies run. Each works in small transactions, may be killed at
-- any moment and goes on where it was at the next run; a DBA may CALL it by hand.
--
-- No batch waits for them. Measured with two connections that stored batches of 1000 without a pause, beside jobs that dropped 20
-- days of rows, refreshed seven days of rollups and forgot 150,000 ids: the longest that a batch waited for a lock was 1.7 ms
-- (TimescaleDB Apache 2.19.3 on PostgreSQL 17) and 0.9 ms (PostgreSQL 18), both for room at the end of a table.
--
-- Needs:    0001 to 0009.
-- Settings: none; a job's config has them.
-- Undo:     remove the jobs, then DROP the procedures and functions named here.

-- Where the oldest chunk or partition of usage_events begins; NULL where there is none.
CREATE OR REPLACE FUNCTION analytics.raw_rows_begin() RETURNS timestamptz
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF (SELECT edition FROM analytics.installation) = 'postgresql' THEN
        RETURN (SELECT min(lower_bound) FROM analytics.partitions WHERE table_name = 'usage_events');
    END IF;
    RETURN (
        SELECT min(range_start)
        FROM timescaledb_information.chunks
        WHERE hypertable_schema = 'analytics' AND hypertable_name = 'usage_events');
END
$$;

-- Finds out by the rollups which days have lost raw rows, whoever dropped them, and notes it: a day that the rollup has and
-- the raw table no longer has. From then on no rollup of such a day is computed again, which would empty it, and the service
-- takes no event of that day, which would be counted twice if its id is forgotten, too.
CREATE OR REPLACE FUNCTION analytics.note_lost_days() RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    oldest constant timestamptz := analytics.raw_rows_begin();
    newest_lost timestamptz;
BEGIN
    IF (SELECT edition FROM analytics.installation) = 'timescaledb' THEN
        newest_lost := (SELECT max(bucket) FROM analytics.usage_daily WHERE bucket < oldest);
    ELSE
        newest_lost := (SELECT max(bucket) FROM analytics.usage_daily_stored WHERE bucket < oldest);
    END IF;
    IF newest_lost IS NOT NULL THEN
        PERFORM analytics.note_bound('raw_rows_from', newest_lost + interval '1 day');
    END IF;
END
$$;

-- Whether the three rollups hold all raw rows from before a moment, as far as those were not late.
CREATE OR REPLACE FUNCTION analytics.rollups_reach(until_moment timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN coalesce(analytics.raw_rows_begin() >= until_moment, true)
        OR least(analytics.time_bound('usage_hourly'), analytics.time_bound('usage_daily'),
                 analytics.time_bound('usage_daily_by_user')) >= until_moment;
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
-- 10,000 ids a transaction: a batch that waits for one of these rows waits for no longer than that takes. The ids of archives go
-- with those of their events.
CREATE OR REPLACE PROCEDURE analytics.prune_ledger(job_id integer, config jsonb)
LANGUAGE plpgsql
AS $$
DECLARE
    batch_rows constant integer := 10000;
    oldest_kept constant timestamptz := now() - make_interval(days => (config ->> 'dedupe_window_days')::integer + 1);
    pruned bigint;
BEGIN
    LOOP
        DELETE FROM analytics.usage_event_ids
        WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM analytics.usage_event_ids WHERE event_time < oldest_kept LIMIT batch_rows));
        GET DIAGNOSTICS pruned = ROW_COUNT;
        EXIT WHEN pruned = 0;
        PERFORM analytics.note_bound('ids_from', oldest_kept);
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
    epoch constant timestamptz := '2000-01-01 00:00:00+00';
    this_hour constant timestamptz := date_bin('1 hour', now(), epoch);
    today constant timestamptz := date_bin('1 day', now(), epoch);
    changed timestamptz;
    changed_days timestamptz[];
BEGIN
    -- One at a time; held by the session, because every part is a transaction of its own.
    PERFORM pg_advisory_lock(hashtextextended('analytics.refresh_rollups', 0));
    PERFORM analytics.note_lost_days();
    -- Every batch left a row: one for each bucket is enough. Buckets that can't be computed any more are let go.
    WITH noted AS (
        DELETE FROM analytics.usage_changes RETURNING rollup, bucket
    )
    INSERT INTO analytics.usage_changes (rollup, bucket)
    SELECT DISTINCT rollup, bucket FROM noted WHERE bucket >= analytics.time_bound('raw_rows_from');
    COMMIT;

    -- What a DELETE sees of usage_changes was committed before the statement after it looks at the raw rows: a batch that commits
    -- in between is counted now and, because its note stays, once more in the next run.
    FOR changed IN
        SELECT DISTINCT bucket FROM analytics.usage_changes WHERE rollup = 'usage_hourly' AND bucket < this_hour ORDER BY bucket
    LOOP
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
        changed_days := ARRAY(
            SELECT DISTINCT bucket FROM analytics.usage_changes
            WHERE rollup = 'usage_daily' AND bucket < today
            ORDER BY bucket LIMIT 31);
        EXIT WHEN changed_days = '{}';
        DELETE FROM analytics.usage_changes WHERE rollup = 'usage_daily' AND bucket = ANY (changed_days);
        DELETE FROM analytics.usage_daily_stored WHERE bucket = ANY (changed_days);
        INSERT INTO analytics.usage_daily_stored
        SELECT *
        FROM analytics.aggregate_days(changed_days[1], changed_days[cardinality(changed_days)] + interval '1 day')
        WHERE bucket = ANY (changed_days);
        PERFORM analytics.note_bound('usage_daily', changed_days[cardinality(changed_days)] + interval '1 day');
        COMMIT;
    END LOOP;
    PERFORM analytics.note_bound('usage_daily', today);
    COMMIT;

    FOR changed IN
        SELECT DISTINCT bucket FROM analytics.usage_changes
        WHERE rollup = 'usage_daily_by_user' AND bucket < today
        ORDER BY bucket
    LOOP
        DELETE FROM analytics.usage_changes WHERE rollup = 'usage_daily_by_user' AND bucket = changed;
        DELETE FROM analytics.usage_daily_by_user_stored WHERE bucket = changed;
        INSERT INTO analytics.usage_daily_by_user_stored
        SELECT * FROM analytics.aggregate_days_by_user(changed, changed + interval '1 day');
        PERFORM analytics.note_bound('usage_daily_by_user', changed + interval '1 day');
        COMMIT;
    END LOOP;
    PERFORM analytics.note_bound('usage_daily_by_user', today);
    PERFORM pg_advisory_unlock(hashtextextended('analytics.refresh_rollups', 0));
    COMMIT;
END
$$;

-- PostgreSQL and TimescaleDB's Apache edition: the statements that drop what is past the retention, the oldest first, each to
-- be run by itself. Config: {"retention_days": 180}. By hand: SELECT … \gexec
--
-- * Three days more than the retention, so that an event which was just young enough is in the rollups before it goes.
-- * No raw rows go before the rollups have them.
-- * PostgreSQL: DETACH … CONCURRENTLY lets batches go on, which DROP and a plain DETACH do not: they take ACCESS EXCLUSIVE
--   on the parent. A mark on the partition says that it is ours to drop, should the next step never come.
CREATE OR REPLACE FUNCTION analytics.statements_to_drop(parent_table text, config jsonb) RETURNS TABLE (statement text)
LANGUAGE plpgsql
AS $$
DECLARE
    mark constant text := 'past the retention, to be dropped';
    drop_before timestamptz := now() - make_interval(days => (config ->> 'retention_days')::integer + 3);
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
            SELECT format('SELECT drop_chunks(%L, older_than => %L::timestamptz)', 'analytics.' || parent_table, range_end)
            FROM timescaledb_information.chunks
            WHERE hypertable_schema = 'analytics' AND hypertable_name = parent_table AND range_end <= drop_before
            ORDER BY range_end;
        RETURN;
    END IF;

    RETURN QUERY
        WITH expired AS (
            SELECT format('analytics.%I', partition_name) AS partition, partition_name, lower_bound, inhdetachpending
            FROM analytics.partitions
            JOIN pg_inherits ON inhrelid = format('analytics.%I', partition_name)::regclass
            WHERE table_name = parent_table
              AND (upper_bound <= drop_before OR obj_description(inhrelid, 'pg_class') = mark)
        ), detached AS (
            SELECT format('analytics.%I', relname) AS partition
            FROM pg_class
            WHERE relnamespace = 'analytics'::regnamespace AND relkind = 'r' AND NOT relispartition
              AND starts_with(relname, parent_table || '_p') AND obj_description(oid, 'pg_class') = mark
        ), steps AS (
            SELECT lower_bound, 1 AS step, format('COMMENT ON TABLE %s IS %L', partition, mark) AS command
            FROM expired
            UNION ALL
            SELECT lower_bound, 2, format('ALTER TABLE analytics.%I DETACH PARTITION %s %s', parent_table, partition,
                                          CASE WHEN inhdetachpending THEN 'FINALIZE' ELSE 'CONCURRENTLY' END)
            FROM expired
            UNION ALL
            SELECT lower_bound, 3, format('DROP TABLE %s', partition) FROM expired
            UNION ALL
            SELECT '-infinity', 4, format('DROP TABLE %s', partition) FROM detached
        )
        SELECT command FROM steps ORDER BY lower_bound, step;
END
$$;
