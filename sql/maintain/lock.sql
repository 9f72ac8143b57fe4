-- As maintain/try_lock, but waits as long as lock_timeout allows.
SELECT pg_advisory_lock(hashtextextended('analytics.maintenance', 0))
