-- The limits that the program puts on its settings hold for a DBA's sessions, too, and for what the writer may ask of functions
-- with the owner's rights.
--
-- Needs:    0001 to 0010.
-- Settings: none.
-- Undo:     0003, 0006 and 0007 again, which have the functions as they were; DROP FUNCTION analytics.setting(text, text);
--           ALTER TABLE analytics.usage_changes DROP CONSTRAINT usage_changes_are_buckets;

-- A setting of a policy file: what the session sets (SET analytics.retention_days = 365), else what this policy was given last,
-- else the product's default. So a file that a DBA runs again by hand changes nothing that was chosen before.
--
-- Raises invalid_parameter_value outside the range that the program allows: with less than nothing kept, everything would go.
CREATE OR REPLACE FUNCTION analytics.setting(setting_name text, policy_name text) RETURNS integer
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    allowed_max constant integer := CASE setting_name WHEN 'chunk_time_interval_hours' THEN 8760 ELSE 36500 END;
    chosen constant integer := coalesce(
        nullif(current_setting('analytics.' || setting_name, true), '')::integer,
        (SELECT (settings ->> setting_name)::integer
         FROM analytics.policy_history
         WHERE policy = policy_name AND settings ? setting_name
         ORDER BY id DESC
         LIMIT 1),
        CASE setting_name
            WHEN 'compression_after_days' THEN 7
            WHEN 'retention_days' THEN 180
            WHEN 'dedupe_window_days' THEN 180
            WHEN 'chunk_time_interval_hours' THEN 24
        END);
BEGIN
    IF chosen NOT BETWEEN 1 AND allowed_max THEN
        RAISE EXCEPTION 'analytics.% is %, and must be from 1 to %', setting_name, chosen, allowed_max
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN chosen;
END
$$;

-- Moves a bound forward; never back, which is why none may lie in the future: the service would take no event until then. That of
-- raw rows goes to the next full hour: of an hour that lost some there is no computing it again.
CREATE OR REPLACE FUNCTION analytics.note_bound(bound_name text, bound_moment timestamptz) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF bound_name = 'raw_rows_from' THEN
        bound_moment := date_bin(
            '1 hour', bound_moment + interval '1 hour' - interval '1 microsecond', '2000-01-01 00:00:00+00');
    END IF;
    IF bound_moment > now() THEN
        RAISE EXCEPTION 'the bound % can''t be moved to %, which is in the future', bound_name, bound_moment
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO analytics.time_bounds AS bound (name, moment)
    VALUES (bound_name, bound_moment)
    ON CONFLICT (name) DO UPDATE
    SET moment = excluded.moment, noted_at = now()
    WHERE bound.moment < excluded.moment;
END
$$;

-- As in 0003, with its owner's rights since 0006. The writer may call it, so it takes only what CHUNK_TIME_INTERVAL_HOURS may be.
CREATE OR REPLACE FUNCTION analytics.ensure_partition(parent_table text, moment timestamptz, width interval)
RETURNS TABLE (lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Bounds are written and named in UTC, whatever the session's zone.
SET timezone = 'UTC'
AS $$
DECLARE
    epoch constant timestamptz := '1970-01-01 00:00:00+00';
    name_bytes_max constant integer := 63;
    wanted_lower timestamptz;
    wanted_upper timestamptz;
    partition_name text;
BEGIN
    IF NOT isfinite(moment)
       OR width NOT BETWEEN interval '1 hour' AND interval '8760 hours'
       OR extract(epoch FROM width) % 3600 <> 0
    THEN
        RAISE EXCEPTION 'no partition % wide can be made for %: 1 to 8760 whole hours, and a finite time', width, moment
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    wanted_lower := date_bin(width, moment, epoch);
    wanted_upper := date_bin(width, moment, epoch) + width;

    PERFORM pg_advisory_xact_lock(hashtextextended('analytics.ensure_partition.' || parent_table, 0));

    RETURN QUERY
        SELECT p.lower_bound, p.upper_bound
        FROM analytics.partitions p
        WHERE p.table_name = parent_table AND moment >= p.lower_bound AND moment < p.upper_bound;
    IF FOUND THEN
        RETURN;
    END IF;

    SELECT greatest(wanted_lower, max(p.upper_bound) FILTER (WHERE p.upper_bound <= moment)),
           least(wanted_upper, min(p.lower_bound) FILTER (WHERE p.lower_bound > moment))
    INTO wanted_lower, wanted_upper
    FROM analytics.partitions p
    WHERE p.table_name = parent_table;

    partition_name := format('%s_p%s', parent_table, to_char(wanted_lower, 'YYYYMMDD"t"HH24MI'));
    -- A partition that was detached keeps its name, and its place has been free since then.
    WHILE to_regclass(format('analytics.%I', partition_name)) IS NOT NULL LOOP
        partition_name := partition_name || 'x';
        IF octet_length(partition_name) > name_bytes_max THEN
            RAISE EXCEPTION 'too many tables are named like partitions of analytics.% at %', parent_table, wanted_lower
                USING ERRCODE = 'duplicate_table', HINT = 'Drop or rename the detached ones.';
        END IF;
    END LOOP;
    EXECUTE format(
        'CREATE TABLE analytics.%I (LIKE analytics.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
        partition_name, parent_table);
    EXECUTE format(
        'ALTER TABLE analytics.%I ATTACH PARTITION analytics.%I FOR VALUES FROM (%L) TO (%L)',
        parent_table, partition_name, wanted_lower, wanted_upper);

    RETURN QUERY SELECT wanted_lower, wanted_upper;
END
$$;

-- The writer inserts into usage_changes. What is no bucket would never be computed, and would hold back the retention for ever.
DO $$
BEGIN
    IF to_regclass('analytics.usage_changes') IS NULL
       OR EXISTS (SELECT FROM pg_constraint WHERE conname = 'usage_changes_are_buckets')
    THEN
        RETURN;
    END IF;
    -- Batches queue behind who waits for an exclusive lock, so the waits are short and repeated.
    PERFORM set_config('lock_timeout', '500ms', true);
    FOR attempt IN 1 .. 20 LOOP
        BEGIN
            LOCK TABLE analytics.usage_changes IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF attempt = 20 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(1);
        END;
    END LOOP;
    DELETE FROM analytics.usage_changes
    WHERE CASE WHEN isfinite(bucket) THEN bucket <> date_bin('1 hour', bucket, '2000-01-01 00:00:00+00') ELSE true END
       OR rollup NOT IN ('usage_hourly', 'usage_daily', 'usage_daily_by_user');
    ALTER TABLE analytics.usage_changes ADD CONSTRAINT usage_changes_are_buckets CHECK (
        rollup IN ('usage_hourly', 'usage_daily', 'usage_daily_by_user')
        AND CASE WHEN isfinite(bucket) THEN bucket = date_bin('1 hour', bucket, '2000-01-01 00:00:00+00') ELSE false END);
END
$$;
