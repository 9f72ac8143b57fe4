-- What `ingest doctor` asks any server, whether our schema is there or not, in one row. Needs no right but to connect; what
-- this user may not see is NULL.
--
-- server_now:         the server's clock, to compare with this machine's.
-- library_version:    the TimescaleDB that is installed on the server; extension_version is the one in this database.
-- preloads:           whether the server loads TimescaleDB at its start; only then has it settings of that name.
-- lock_slots:         how many locks all transactions may hold together.
-- relations:          what one of them may have to lock: our tables, chunks and partitions, and their indexes.
SELECT current_setting('server_version_num')::integer                            AS version_number,
       split_part(current_setting('server_version'), ' ', 1)                     AS version,
       clock_timestamp()                                                         AS server_now,
       current_user                                                              AS user_name,
       pg_is_in_recovery()                                                       AS is_standby,
       (SELECT setting = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only') AS is_read_only,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')       AS extension_version,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb') AS library_version,
       current_setting('timescaledb.license', true)                              AS license,
       current_setting('fsync') = 'on'                                           AS fsync,
       current_setting('full_page_writes') = 'on'                                AS full_page_writes,
       current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer          AS connections_max,
       current_setting('max_worker_processes')::integer                          AS worker_processes_max,
       current_setting('timescaledb.max_background_workers', true)::integer      AS background_workers_max,
       current_setting('timescaledb.max_background_workers', true) IS NOT NULL   AS preloads,
       current_setting('max_locks_per_transaction')::integer * (
           current_setting('max_connections')::integer
           + current_setting('max_prepared_transactions')::integer)              AS lock_slots,
       (SELECT count(*)
        FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname IN ('analytics', '_timescaledb_internal') AND relkind IN ('r', 'p', 'i', 'I')) AS relations,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)              AS is_superuser,
       (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'analytics') AS is_owner,
       to_regclass('analytics._yoyo_migration') IS NOT NULL                      AS has_migrations,
       has_table_privilege(to_regclass('analytics._yoyo_migration'), 'SELECT')   AS may_read,
       has_table_privilege(to_regclass('analytics.usage_events'), 'INSERT')      AS may_write,
       has_table_privilege(to_regclass('analytics.api_keys'), 'SELECT')          AS may_read_keys
