-- API keys: who may send, as which teams, how often, until when. `ingest keys` writes them, the service reads them.
--
-- Needs:    0001 to 0004.
-- Settings: none.
-- Undo:     DROP TABLE analytics.api_keys; DROP FUNCTION analytics.teams_of_events(uuid[]). Nobody can send then, unless the service
--           runs with AUTH_REQUIRED=false.
--
-- A key is lai_<key_id>_<secret>. Of the secret there is only the SHA-256: it is made of 32 random bytes, so that nobody can try
-- them all, and a slow hash, which passwords need, would only slow down the service.
--
-- By hand, at once and for good: UPDATE analytics.api_keys SET revoked_at = now() WHERE name = '…';

CREATE TABLE IF NOT EXISTS analytics.api_keys (
    key_id          text        PRIMARY KEY CHECK (key_id ~ '^[0-9A-Za-z]{12}$'),
    number          integer     GENERATED ALWAYS AS IDENTITY,
    name            text        NOT NULL CHECK (length(name) BETWEEN 1 AND 256),
    secret_sha256   bytea       NOT NULL CHECK (length(secret_sha256) = 32),
    scope           text        NOT NULL CHECK (scope IN ('ingest', 'read')),
    teams           text[]      CHECK (cardinality(teams) BETWEEN 1 AND 1000 AND array_position(teams, NULL) IS NULL),
    rate_per_minute integer     CHECK (rate_per_minute > 0),
    created_at      timestamptz NOT NULL DEFAULT now(),
    created_by      text        NOT NULL DEFAULT session_user,
    -- 'infinity' and years of five digits are no times to most programs; a key that never ends has NULL.
    expires_at      timestamptz CHECK (expires_at > '2000-01-01 00:00+00' AND expires_at < '9000-01-01 00:00+00'),
    revoked_at      timestamptz
);

-- A name names one key at a time; one that was revoked gives it free.
CREATE UNIQUE INDEX IF NOT EXISTS api_keys_name ON analytics.api_keys (name) WHERE revoked_at IS NULL;

COMMENT ON TABLE analytics.api_keys IS
    'API keys. Their secrets are not here: only the SHA-256 of each.';
COMMENT ON COLUMN analytics.api_keys.key_id IS
    'The part of a key that is no secret: lai_<key_id>_<secret>.';
COMMENT ON COLUMN analytics.api_keys.number IS
    'Where the service counts the key''s requests.';
COMMENT ON COLUMN analytics.api_keys.scope IS
    'ingest: may send events and archives; read: may only ask the service about itself.';
COMMENT ON COLUMN analytics.api_keys.teams IS
    'The teams whose events it may send; NULL: all.';
COMMENT ON COLUMN analytics.api_keys.rate_per_minute IS
    'Requests a minute; NULL: as many as it likes.';

-- The teams of usage events, by id; those that are not stored are left out. An archive has no team of its own, so this is asked
-- before archives are stored for a key that is bound to teams.
--
-- It has its owner's rights, because the writer can't read an event. (A grant on some columns won't do: TimescaleDB 2.28 hands it
-- down to the table with the compressed rows, which doesn't have them.) One look into one chunk for each id, because the ledger
-- has its time; a plain join may read all chunks.
CREATE OR REPLACE FUNCTION analytics.teams_of_events(event_ids uuid[]) RETURNS TABLE (event_id uuid, team text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ledger.event_id, event.team
    FROM analytics.usage_event_ids ledger
    CROSS JOIN LATERAL (
        SELECT stored.team
        FROM analytics.usage_events stored
        WHERE stored.event_time = ledger.event_time AND stored.event_id = ledger.event_id
        LIMIT 1
    ) event
    WHERE ledger.event_id = ANY (event_ids)
$$;

-- sql/grants.sql gives it to the writer.
REVOKE EXECUTE ON FUNCTION analytics.teams_of_events(uuid[]) FROM PUBLIC;
