-- Tables to measure single steps on: stages."none" has the columns of analytics.usage_events and no index, and for each of its
-- indexes there is a table with that one alone, which bears the name of the index with "table of " before it.
--
-- Needs: the schema analytics, and no schema stages.
--
-- Hypertables in chunks of 24 hours where the database has TimescaleDB, else plain tables.
DO $$
DECLARE
    has_timescaledb constant boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    table_name name;
    definition text;
BEGIN
    CREATE SCHEMA stages;
    FOR table_name, definition IN
        SELECT 'none', NULL
        UNION ALL
        SELECT 'table of ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'analytics' AND tablename = 'usage_events'
    LOOP
        EXECUTE format('CREATE TABLE stages.%I (LIKE analytics.usage_events INCLUDING DEFAULTS)', table_name);
        IF has_timescaledb THEN
            PERFORM create_hypertable(
                format('stages.%I', table_name), by_range('event_time', INTERVAL '24 hours'), create_default_indexes => false);
        END IF;
        IF definition IS NOT NULL THEN
            EXECUTE regexp_replace(definition, ' ON (ONLY )?analytics\.usage_events ', format(' ON stages.%I ', table_name));
        END IF;
    END LOOP;
END
$$;
