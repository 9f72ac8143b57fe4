-- What the writer and the reader of sql/roles.sql may do with what is in the schema now. `ingest migrate` and
-- `ingest policies apply` run it at their end; it may be run any number of times. Without sql/roles.sql it does nothing.
--
-- Needs:    sql/roles.sql, all migrations; the owner of the tables or a superuser.
-- Settings: none; the names of the roles are in analytics.roles.
-- Undo:     REVOKE ALL ON ALL TABLES IN SCHEMA analytics FROM ingest_writer, ingest_reader; and
--           REVOKE ALL ON ALL ROUTINES IN SCHEMA analytics FROM ingest_writer;
--
-- It takes nothing away: what a DBA grants besides, stays. A table gets only what is missing, because a GRANT on a hypertable
-- writes to the catalog entries of all its chunks, where it could meet a job that does the same.
--
-- Functions need no grant but two: they have the rights of their caller, also those that the rollup views call. So has a
-- background job: TimescaleDB Community lets everybody make one, and the writer's could do no more than the writer.

DO $$
DECLARE
    statement text;
BEGIN
    IF to_regclass('analytics.roles') IS NULL THEN
        RETURN;
    END IF;

    FOR statement IN
        SELECT format('GRANT %s%s ON %s TO %I', privilege, ' (' || quote_ident(column_name) || ')', relation, role_name)
        FROM (VALUES
            -- The service at its start: is the schema the one it knows, on the edition it was made on? And what was dropped?
            ('writer', 'SELECT', '_yoyo_migration',     NULL),
            ('writer', 'SELECT', 'installation',        NULL),
            ('writer', 'SELECT', 'time_bounds',         NULL),
            -- A batch (sql/load). Of the ledgers it reads what ON CONFLICT, RETURNING and judging name; of events, nothing.
            ('writer', 'INSERT', 'usage_event_ids',     NULL),
            ('writer', 'SELECT', 'usage_event_ids',     'event_id'),
            ('writer', 'SELECT', 'usage_event_ids',     'fingerprint'),
            ('writer', 'INSERT', 'usage_events',        NULL),
            ('writer', 'INSERT', 'usage_changes',       NULL),
            ('writer', 'INSERT', 'message_archive_ids', NULL),
            ('writer', 'SELECT', 'message_archive_ids', 'event_id'),
            ('writer', 'SELECT', 'message_archive_ids', 'stored_at'),
            ('writer', 'SELECT', 'message_archive_ids', 'fingerprint'),
            ('writer', 'INSERT', 'message_archives',    NULL),
            ('writer', 'SELECT', 'api_keys',            NULL),
            -- Reports. Where the rollups are tables, their views read usage_events and time_bounds with the reader's rights.
            ('reader', 'SELECT', 'usage_events',        NULL),
            ('reader', 'SELECT', 'usage_event_ids',     NULL),
            ('reader', 'SELECT', 'usage_hourly',        NULL),
            ('reader', 'SELECT', 'usage_daily',         NULL),
            ('reader', 'SELECT', 'usage_daily_by_user', NULL),
            ('reader', 'SELECT', 'time_bounds',         NULL),
            -- `ingest policies status`.
            ('reader', 'SELECT', '_yoyo_migration',     NULL),
            ('reader', 'SELECT', 'installation',        NULL),
            ('reader', 'SELECT', 'maintenance_jobs',    NULL),
            ('reader', 'SELECT', 'policy_history',      NULL),
            ('reader', 'SELECT', 'usage_changes',       NULL),
            ('reader', 'SELECT', 'partitions',          NULL)
        ) AS wanted (duty, privilege, relation_name, column_name)
        JOIN analytics.roles USING (duty)
        JOIN pg_roles ON rolname = role_name
        CROSS JOIN LATERAL to_regclass('analytics.' || relation_name) AS relation
        -- NULL, and so passed over, where the edition has no such table or no policy has made it yet.
        WHERE NOT CASE
            WHEN column_name IS NULL THEN has_table_privilege(role_name, relation, privilege)
            ELSE has_column_privilege(role_name, relation, column_name, privilege)
        END
        UNION ALL
        -- Whose an event is. This function and the next have their owner's rights, so 0016 and 0006 took them from PUBLIC.
        SELECT format('GRANT EXECUTE ON FUNCTION analytics.teams_of_events(uuid[]) TO %I', role_name)
        FROM analytics.roles
        JOIN pg_roles ON rolname = role_name
        WHERE duty = 'writer'
        UNION ALL
        -- How the jobs fare, for the metrics. TimescaleDB Community's own tell everybody.
        SELECT format('GRANT SELECT ON analytics.maintenance_jobs TO %I', role_name)
        FROM analytics.roles
        JOIN pg_roles ON rolname = role_name
        WHERE duty = 'writer' AND (SELECT edition FROM analytics.installation) <> 'timescaledb'
        UNION ALL
        -- Plain PostgreSQL: which partitions there are, and one more where a batch needs it.
        SELECT format(
            'GRANT SELECT ON analytics.partitions TO %1$I;'
            'GRANT EXECUTE ON FUNCTION analytics.ensure_partition(text, timestamptz, interval) TO %1$I', role_name)
        FROM analytics.roles
        JOIN pg_roles ON rolname = role_name
        WHERE duty = 'writer' AND (SELECT edition FROM analytics.installation) = 'postgresql'
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
