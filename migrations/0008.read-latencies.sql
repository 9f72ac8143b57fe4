-- Percentiles from latency buckets. A rollup's column `latency_le` counts, for each bound of analytics.latency_bounds(), how
-- many calls took at most so many milliseconds; counts of several rows add up, which percentiles do not.
--
-- Needs:    0001.
-- Settings: none.
-- Undo:     DROP AGGREGATE analytics.sum_latency_le(bigint[]); DROP FUNCTION analytics.latency_percentiles,
--           analytics.latency_percentile, analytics.add_latency_le, analytics.latency_bounds.

-- 10 ms to 630 s by the preferred numbers R5 of ISO 3: five steps to a factor of ten, none above a factor of 1.6.
CREATE OR REPLACE FUNCTION analytics.latency_bounds() RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT ARRAY[10, 16, 25, 40, 63, 100, 160, 250, 400, 630, 1000, 1600, 2500, 4000, 6300, 10000, 16000, 25000, 40000, 63000,
                 100000, 160000, 250000, 400000, 630000]
$$;

CREATE OR REPLACE FUNCTION analytics.add_latency_le(one bigint[], other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT array_agg(a + b ORDER BY place)
    FROM unnest(one, other) WITH ORDINALITY AS counts (a, b, place)
$$;

DO $$
BEGIN
    IF to_regprocedure('analytics.sum_latency_le(bigint[])') IS NULL THEN
        CREATE AGGREGATE analytics.sum_latency_le(bigint[]) (
            SFUNC = analytics.add_latency_le, STYPE = bigint[], COMBINEFUNC = analytics.add_latency_le, PARALLEL = SAFE);
    END IF;
END
$$;

COMMENT ON AGGREGATE analytics.sum_latency_le(bigint[]) IS
    'Adds the latency buckets of several rollup rows, for analytics.latency_percentiles.';

-- The latency in milliseconds that a share `fraction` of the calls did not exceed; NULL where no call has a latency.
--
-- The true value (percentile_disc) lies in the same bucket as the answer, between which and the bucket's other end are at most
-- a factor of 1.6: the answer is never off by more than that between 10 ms and 630 s. Below, it is at most 10 ms; above, it
-- lies between 630 s and the longest call. Within the bucket it is interpolated by rank, and it never exceeds the longest call.
CREATE OR REPLACE FUNCTION analytics.latency_percentile(
    latency_le bigint[], latency_count bigint, latency_ms_max integer, fraction double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    WITH buckets AS (
        SELECT lag(bound, 1, 0) OVER places                  AS lower_bound,
               bound                                         AS upper_bound,
               lag(counted, 1, 0::bigint) OVER places        AS counted_before,
               counted
        FROM unnest(analytics.latency_bounds() || greatest(latency_ms_max, 630000), latency_le || latency_count)
             WITH ORDINALITY AS places (bound, counted, place)
        WINDOW places AS (ORDER BY place)
    ), wanted AS (
        SELECT greatest(ceil(fraction * latency_count), 1) AS rank
    )
    SELECT least(
        lower_bound + (upper_bound - lower_bound) * (rank - counted_before) / (counted - counted_before),
        latency_ms_max)
    FROM buckets, wanted
    WHERE counted >= rank AND counted_before < rank
$$;

-- SELECT bucket, team, p50, p95, p99
-- FROM analytics.usage_hourly, analytics.latency_percentiles(latency_le, latency_count, latency_ms_max);
CREATE OR REPLACE FUNCTION analytics.latency_percentiles(latency_le bigint[], latency_count bigint, latency_ms_max integer)
RETURNS TABLE (p50 double precision, p95 double precision, p99 double precision)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT analytics.latency_percentile(latency_le, latency_count, latency_ms_max, 0.50),
           analytics.latency_percentile(latency_le, latency_count, latency_ms_max, 0.95),
           analytics.latency_percentile(latency_le, latency_count, latency_ms_max, 0.99)
$$;

COMMENT ON FUNCTION analytics.latency_percentiles(bigint[], bigint, integer) IS
    'p50, p95, p99 in milliseconds from latency buckets; off by a factor of 1.6 at most, see the migration.';
