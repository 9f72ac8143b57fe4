-- Lets others lead the maintenance.
SELECT pg_advisory_unlock(hashtextextended('analytics.maintenance', 0))
