-- Makes the schema that yoyo keeps its own tables in, if there is none. (CREATE SCHEMA IF NOT EXISTS asks for the right to
-- create schemas even where there is nothing to do.)
DO $$
BEGIN
    IF to_regnamespace('analytics') IS NULL THEN
        CREATE SCHEMA analytics;
    END IF;
END
$$
