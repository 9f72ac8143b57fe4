-- Whether there may be raw rows that a retention drops before the rollups' job, which begins two days past it, looks at them. A day
-- more than that, because the job begins at a full one.
--
-- $1 integer: the retention in days.
SELECT EXISTS (
    SELECT
    FROM analytics.raw_ranges()
    WHERE range_start < now() - make_interval(days => $1 + 1)
) AS found
