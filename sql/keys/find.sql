-- The API keys with these ids that were not revoked; for the service, which compares the secrets and looks at the clock.
--
-- $1 text[]: ids.
SELECT key_id, number, name, secret_sha256, scope, teams, rate_per_minute, expires_at
FROM analytics.api_keys
WHERE key_id = ANY ($1::text[]) AND revoked_at IS NULL
