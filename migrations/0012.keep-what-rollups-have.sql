-- What the rollups have of rows that are gone stays: also where the newest chunk or all of them were dropped, and where only a
-- part of a day was.
--
-- Needs:    0001 to 0011; what it calls is complete with 0014.
-- Settings: none.
-- Undo:     0010 again, which has the procedure as it was; DROP FUNCTION analytics.note_lost_hours(), analytics.newest_lost_hour();

-- The newest hour that the rollup has and that no chunk or partition holds any more; NULL where there is none.
--
-- STABLE, and that matters: all its queries see the database at one moment. Else a chunk that is made between two of them would
-- look like one that was dropped.
CREATE OR REPLACE FUNCTION analytics.newest_lost_hour() RETURNS timestamptz
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    this_hour constant timestamptz := date_bin('1 hour', now(), '2000-01-01 00:00:00+00');
    gap record;
    newest_lost timestamptz;
BEGIN
    FOR gap IN
        SELECT gap_begin, gap_end
        FROM (
            SELECT lag(range_end, 1, '-infinity') OVER (ORDER BY range_start) AS gap_begin, range_start AS gap_end
            FROM (
                SELECT range_start, range_end FROM analytics.raw_ranges()
                UNION ALL
                SELECT 'infinity', 'infinity' -- what is missing after the last one, or where there is none
            ) ranges
        ) gaps
        WHERE gap_begin < gap_end
        ORDER BY gap_begin DESC
    LOOP
        IF (SELECT edition FROM analytics.installation) = 'timescaledb' THEN
            newest_lost := (
                SELECT max(bucket) FROM analytics.usage_hourly
                WHERE bucket >= gap.gap_begin AND bucket < least(gap.gap_end, this_hour));
        ELSE
            newest_lost := (
                SELECT max(bucket) FROM analytics.usage_hourly_stored
                WHERE bucket >= gap.gap_begin AND bucket < least(gap.gap_end, this_hour));
        END IF;
        IF newest_lost IS NOT NULL THEN
            RETURN newest_lost;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Finds out by the rollups where raw rows were dropped, whoever dropped them, and notes it. From then on no rollup of that time or
-- before is computed again from raw rows, which would empty it, and the service takes no event of then, which would be counted
-- twice if its id is forgotten, too.
CREATE OR REPLACE FUNCTION analytics.note_lost_hours() RETURNS void
LANGUAGE sql
AS $$
    WITH found AS MATERIALIZED (SELECT analytics.newest_lost_hour() AS lost)
    SELECT analytics.note_bound('raw_rows_from', lost + interval '1 hour') FROM found WHERE lost IS NOT NULL
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
    -- Every batch left a row: one for each bucket is enough. Hours that can't be computed any more are let go.
    WITH noted AS (
        DELETE FROM analytics.usage_changes RETURNING rollup, bucket
    )
    INSERT INTO analytics.usage_changes (rollup, bucket)
    SELECT DISTINCT rollup, bucket
    FROM noted
    WHERE rollup <> 'usage_hourly' OR bucket >= analytics.time_bound('raw_rows_from');
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
        -- Made of raw rows: a day of which some were dropped stays as it was computed before that.
        IF changed >= analytics.time_bound('raw_rows_from')
           OR NOT EXISTS (SELECT FROM analytics.usage_daily_by_user_stored WHERE bucket = changed)
        THEN
            DELETE FROM analytics.usage_daily_by_user_stored WHERE bucket = changed;
            INSERT INTO analytics.usage_daily_by_user_stored
            SELECT * FROM analytics.aggregate_days_by_user(changed, changed + interval '24 hours');
        END IF;
        PERFORM analytics.note_bound('usage_daily_by_user', changed + interval '24 hours');
        COMMIT;
    END LOOP;
    PERFORM analytics.note_bound('usage_daily_by_user', today);
    COMMIT;
END
$$;
