-- Ends an API key, now; nothing where there is none in use by that name. Returns its row as list.sql does.
--
-- $1 text: its name, or its id.
UPDATE analytics.api_keys
SET revoked_at = now()
WHERE $1 IN (name, key_id) AND revoked_at IS NULL
RETURNING key_id, name, scope, teams, rate_per_minute, created_at, created_by, expires_at, revoked_at
