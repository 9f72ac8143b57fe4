-- analytics.ensure_partition runs with its owner's rights from here on, so that the role the service runs as needs no right to
-- create tables (sql/roles.sql). It makes partitions of our two tables and of nothing else.
--
-- Needs:    0003.
-- Settings: none.
-- Undo:     ALTER FUNCTION analytics.ensure_partition(text, timestamptz, interval) SECURITY INVOKER; and
--           GRANT EXECUTE ON FUNCTION analytics.ensure_partition(text, timestamptz, interval) TO PUBLIC.

-- Returns what 0003 says. What is new is whose rights it has, the fixed search_path that such a function needs, and the check.
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
    wanted_lower timestamptz := date_bin(width, moment, epoch);
    wanted_upper timestamptz := date_bin(width, moment, epoch) + width;
    partition_name text;
BEGIN
    IF parent_table NOT IN ('usage_events', 'message_archives') THEN
        RAISE EXCEPTION 'analytics.% is none of the partitioned tables', parent_table;
    END IF;
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

-- sql/grants.sql gives it to the writer.
REVOKE EXECUTE ON FUNCTION analytics.ensure_partition(text, timestamptz, interval) FROM PUBLIC;
