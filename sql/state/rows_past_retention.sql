-- Whether there are raw rows that a retention would drop at once.
--
-- $1 integer: the retention in days.
SELECT EXISTS (
    SELECT
    FROM analytics.raw_ranges()
    WHERE range_start < now() - make_interval(days => $1 + 3)
) AS found
