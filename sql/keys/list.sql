-- All API keys, the oldest first.
SELECT key_id, name, scope, teams, rate_per_minute, created_at, created_by, expires_at, revoked_at
FROM analytics.api_keys
ORDER BY created_at, key_id
