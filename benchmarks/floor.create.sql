-- The floor's table: floor.usage_events, with the columns and indexes of analytics.usage_events as they are now, and a key.
--
-- Needs: the schema analytics, and no schema floor.
--
-- A hypertable in chunks of 24 hours where the database has TimescaleDB, else a table with one partition, which holds the day
-- before and the day after now.
DO $$
DECLARE
    has_timescaledb constant boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
BEGIN
    CREATE SCHEMA floor;
    EXECUTE $table$
        CREATE TABLE floor.usage_events (
            LIKE analytics.usage_events INCLUDING DEFAULTS INCLUDING INDEXES,
            UNIQUE (event_id, event_time)
        )
    $table$ || CASE WHEN has_timescaledb THEN '' ELSE ' PARTITION BY RANGE (event_time)' END;
    IF has_timescaledb THEN
        PERFORM create_hypertable(
            'floor.usage_events', by_range('event_time', INTERVAL '24 hours'), create_default_indexes => false);
    ELSE
        EXECUTE format(
            'CREATE TABLE floor.usage_events_now PARTITION OF floor.usage_events FOR VALUES FROM (%L) TO (%L)',
            now() - INTERVAL '1 day', now() + INTERVAL '1 day');
    END IF;
END
$$;
