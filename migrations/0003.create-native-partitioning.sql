-- Native range partitions for plain PostgreSQL: which there are, and how one more is made. On TimescaleDB both exist and
-- have nothing to do.
--
-- Needs:    0001.
-- Settings: none.
-- Undo:     DROP VIEW analytics.partitions; DROP FUNCTION analytics.ensure_partition.

-- partition_name, and the range [lower_bound, upper_bound) that it holds.
CREATE OR REPLACE VIEW analytics.partitions AS
SELECT parent.relname                                                          AS table_name,
       partition.relname                                                       AS partition_name,
       (regexp_match(bounds.expression, $re$FROM \('([^']+)'\)$re$))[1]::timestamptz AS lower_bound,
       (regexp_match(bounds.expression, $re$TO \('([^']+)'\)$re$))[1]::timestamptz   AS upper_bound
FROM pg_partitioned_table
JOIN pg_class parent ON parent.oid = pg_partitioned_table.partrelid
JOIN pg_inherits ON pg_inherits.inhparent = parent.oid
JOIN pg_class partition ON partition.oid = pg_inherits.inhrelid
CROSS JOIN LATERAL (SELECT pg_get_expr(partition.relpartbound, partition.oid) AS expression) bounds
WHERE parent.relnamespace = 'analytics'::regnamespace;

COMMENT ON VIEW analytics.partitions IS 'The native partitions of the analytics tables; empty on TimescaleDB.';

-- Makes the partition of `parent_table` that holds `moment`, `width` wide and aligned to the epoch in UTC, unless there is
-- one. Returns the range of the partition that holds the moment now.
--
-- * One at a time, by an advisory lock: two writers may want the same day.
-- * The table is made alone and attached then: ATTACH PARTITION takes SHARE UPDATE EXCLUSIVE on the parent, which lets
--   inserts go on; CREATE TABLE … PARTITION OF would take ACCESS EXCLUSIVE and wait for all of them.
-- * Where a neighbour is wider than `width` (the setting was changed), the new range is cut to the gap that is free.
CREATE OR REPLACE FUNCTION analytics.ensure_partition(parent_table text, moment timestamptz, width interval)
RETURNS TABLE (lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE plpgsql
-- Bounds are written and named in UTC, whatever the session's zone.
SET timezone = 'UTC'
AS $$
DECLARE
    epoch constant timestamptz := '1970-01-01 00:00:00+00';
    wanted_lower timestamptz := date_bin(width, moment, epoch);
    wanted_upper timestamptz := date_bin(width, moment, epoch) + width;
    partition_name text;
BEGIN
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

COMMENT ON FUNCTION analytics.ensure_partition(text, timestamptz, interval) IS
    'Plain PostgreSQL: makes the partition that holds a moment, if there is none; inserts go on meanwhile.';
