-- Ends an API key, now; nothing where there is none in use by that name. Returns its row as list.sql does.
--
-- $1 text: its id, or its name. A name may look like the id of another one, which is meant then.
UPDATE analytics.api_keys
SET revoked_at = now()
WHERE key_id = (
    SELECT key_id
    FROM analytics.api_keys
    WHERE $1 IN (key_id, name) AND revoked_at IS NULL
    ORDER BY key_id = $1 DESC
    LIMIT 1)
RETURNING key_id, name, scope, teams, rate_per_minute, created_at, created_by, expires_at, revoked_at
