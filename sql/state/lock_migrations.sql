-- Waits, as long as lock_timeout allows, until no other program migrates this database, and keeps others waiting until the
-- session ends. A session that is killed frees the lock, which yoyo's own lock row does not.
SELECT pg_advisory_lock(hashtextextended('analytics.migrate', 0))
