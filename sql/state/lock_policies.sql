-- Waits, as long as lock_timeout allows, until no other program applies policies, and keeps others waiting until the session
-- ends.
SELECT pg_advisory_lock(hashtextextended('analytics.policies', 0))
