-- The newest API keys that are for reading and in use; for the service, which lets them read while its database is away.
--
-- $1 integer: how many at most.
SELECT key_id, number, name, secret_sha256, scope, teams, rate_per_minute, expires_at
FROM analytics.api_keys
WHERE scope = 'read' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
ORDER BY created_at DESC
LIMIT $1
