-- analytics.ensure_partition runs with its owner's rights from here on, so that the role the service runs as needs no right to
-- create tables (sql/roles.sql).
--
-- Needs:    0003.
-- Settings: none.
-- Undo:     ALTER FUNCTION analytics.ensure_partition(text, timestamptz, interval) SECURITY INVOKER RESET search_path;
--           GRANT EXECUTE ON FUNCTION analytics.ensure_partition(text, timestamptz, interval) TO PUBLIC;
--
-- It makes partitions of partitioned tables in the schema analytics and nothing else: it makes a table, attaches it, and where
-- it can't, there is no table. The search_path is fixed, as it must be for a function that has another's rights.
ALTER FUNCTION analytics.ensure_partition(text, timestamptz, interval) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;

-- sql/grants.sql gives it to the writer.
REVOKE EXECUTE ON FUNCTION analytics.ensure_partition(text, timestamptz, interval) FROM PUBLIC;
