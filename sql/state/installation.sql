-- What this database is, in one row; read at start-up and while the service waits for a migration.
--
-- installation:       whether analytics.installation exists.
-- migrations:         whether yoyo's table of applied migrations exists.
-- user_name, may_read: who we are, and whether we may read that table; NULL where it doesn't exist.
-- server_version:     e.g. '15.8'.
-- extension_version:  TimescaleDB's, NULL without it.
SELECT to_regclass('analytics.installation') IS NOT NULL                        AS installation,
       to_regclass('analytics._yoyo_migration') IS NOT NULL                     AS migrations,
       current_user                                                             AS user_name,
       has_table_privilege(to_regclass('analytics._yoyo_migration'), 'SELECT')  AS may_read,
       split_part(current_setting('server_version'), ' ', 1)                    AS server_version,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')      AS extension_version
