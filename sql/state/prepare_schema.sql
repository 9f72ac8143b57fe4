-- Makes the schema that yoyo keeps its own tables in, if there is none. (CREATE SCHEMA IF NOT EXISTS asks for the right to
-- create schemas even where there is nothing to do.) Where the database has TimescaleDB and the server does not preload it, the
-- next statement but one would end the session; so that is said here.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
       AND current_setting('timescaledb.max_background_workers', true) IS NULL THEN
        RAISE EXCEPTION 'this database has TimescaleDB, and the server does not preload it: add timescaledb to '
            'shared_preload_libraries in postgresql.conf, and restart the server';
    END IF;
    IF to_regnamespace('analytics') IS NULL THEN
        CREATE SCHEMA analytics;
    END IF;
END
$$
