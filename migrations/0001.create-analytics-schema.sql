-- The schema, and which edition of the database this installation was made on.
--
-- Needs:    CREATE on the database, or on a schema `analytics` that somebody made before. Where the server preloads TimescaleDB, also the right to create that extension
--           (or an extension that somebody made before).
-- Settings: none.
-- Undo:     DROP SCHEMA analytics CASCADE, which deletes everything the service ever stored.
--
-- Every migration here can run twice: yoyo marks a migration as applied in another transaction than the migration's own,
-- so a kill between the two runs it again.

DO $$
BEGIN
    -- IF NOT EXISTS would ask for the right to create schemas even where a DBA made this one before.
    IF to_regnamespace('analytics') IS NULL THEN
        CREATE SCHEMA analytics;
    END IF;
END
$$;

-- A server that preloads TimescaleDB was set up for it; plain tables made there by oversight could not become hypertables
-- later without being rewritten. So the extension is created, or the migration stops and says what is missing.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
       AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
       -- There only where the library is loaded. (Not every user may see shared_preload_libraries.)
       AND EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers')
    THEN
        BEGIN
            CREATE EXTENSION timescaledb SCHEMA public;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'this server preloads TimescaleDB, but % may not create the extension in database %',
                current_user, current_database()
                USING ERRCODE = 'insufficient_privilege',
                      HINT = 'As a superuser run: CREATE EXTENSION timescaledb; then migrate again.';
        END;
    END IF;
END
$$;

-- Asks the license setting, never for functions: the Apache edition carries stubs of all of them.
CREATE OR REPLACE FUNCTION analytics.detected_edition() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN 'postgresql'
        WHEN current_setting('timescaledb.license', true) = 'apache' THEN 'timescaledb-apache'
        ELSE 'timescaledb'
    END
$$;

COMMENT ON FUNCTION analytics.detected_edition() IS
    'What the database answers as now; analytics.installation holds what it was when the tables were made.';

-- TimescaleDB before 2.18 has no columnstore, and 2.18.0 loses rows on insert into compressed chunks (timescaledb#7672).
DO $$
DECLARE
    installed text := (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb');
BEGIN
    IF installed IS NOT NULL
       AND (string_to_array(regexp_replace(installed, '[^0-9.].*$', ''), '.')::int[] < ARRAY[2, 18, 1])
    THEN
        RAISE EXCEPTION 'TimescaleDB % is too old: 2.18.1 or newer is needed', installed
            USING HINT = 'ALTER EXTENSION timescaledb UPDATE; then migrate again.';
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS analytics.installation (
    only_row     boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    edition      text        NOT NULL CHECK (edition IN ('timescaledb', 'timescaledb-apache', 'postgresql')),
    installed_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE analytics.installation IS
    'One row: the edition that the tables were made on. The service refuses a database that answers as another.';

INSERT INTO analytics.installation (edition)
SELECT analytics.detected_edition()
ON CONFLICT DO NOTHING;
