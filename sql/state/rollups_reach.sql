-- Whether the rollups hold what the retention policy will drop.
--
-- $1 integer: the retention in days.
SELECT analytics.rollups_reach(now() - make_interval(days => $1 + 3))
