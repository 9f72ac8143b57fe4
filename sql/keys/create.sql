-- A new API key; nothing where a key that is in use has this name. Returns its row without the hash, as list.sql does.
--
-- $1 text:        the part of the key that is no secret.
-- $2 text:        its name.
-- $3 bytea:       the SHA-256 of its secret.
-- $4 text:        scope, 'ingest' or 'read'.
-- $5 text[]:      the teams it may send for; NULL: all.
-- $6 integer:     requests a minute; NULL: no limit.
-- $7 timestamptz: when it ends; NULL: never.
INSERT INTO analytics.api_keys (key_id, name, secret_sha256, scope, teams, rate_per_minute, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
RETURNING key_id, name, scope, teams, rate_per_minute, created_at, created_by, expires_at, revoked_at
