-- Whether this session leads the maintenance now; it does until it says maintain/unlock or ends.
SELECT pg_try_advisory_lock(hashtextextended('analytics.maintenance', 0))
