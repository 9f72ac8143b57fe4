-- The three roles that the service needs, so that nobody works as a superuser:
-- * ingest_owner owns the schema: `ingest migrate`, `ingest policies` and `ingest maintain` run as it.
-- * ingest_writer is what the service runs as. It may insert into what it writes, and nothing else: it can't read, change or
--   delete an event, nor make a table. It may read API keys, without their secrets, and ask whose an event is, by its id.
-- * ingest_reader is for reports: usage events (with the prompt, where a client sends one), ids, rollups, the state of the
--   policies. Not message_archives; if it is to: GRANT SELECT ON analytics.message_archives TO ingest_reader;
--
-- Run it in the service's database, before the first `ingest migrate`: psql -v ON_ERROR_STOP=1 -f sql/roles.sql
-- The roles have no password then: give each one (\password ingest_writer), or let pg_hba.conf decide. What they may do with
-- the tables stands in sql/grants.sql, which `ingest migrate` and `ingest policies apply` run.
--
-- Needs:    a superuser, or who owns the database and may create roles and the extension timescaledb. Such a user becomes a
--           member of the owner.
-- Settings: analytics.owner_role, analytics.writer_role, analytics.reader_role: other names, for a second installation on the
--           same server (what was chosen before, or the names above). For psql they go into PGOPTIONS:
--           PGOPTIONS='-c analytics.owner_role=… -c analytics.writer_role=… -c analytics.reader_role=…'
-- Undo:     in each database that has them: REASSIGN OWNED BY ingest_owner TO …; DROP TABLE analytics.roles;
--           DROP OWNED BY ingest_owner, ingest_writer, ingest_reader; Then, once:
--           DROP ROLE ingest_owner, ingest_writer, ingest_reader;
--
-- It may be run any number of times, and on an installation that another role has made: whatever is in the schema analytics
-- becomes the owner's, under short locks. Only a TimescaleDB job that belongs to no table can't change hands: such jobs are
-- deleted, and `ingest policies apply` makes them again. Run that, and `ingest migrate`, as the owner then.

DO $$
DECLARE
    owner_role name;
    owner_oid oid;
    writer_role name;
    reader_role name;
    chosen record;
    statement text;
BEGIN
    -- A superuser runs no function that somebody put into `public` under the name of one of PostgreSQL's.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    IF to_regnamespace('analytics') IS NULL THEN
        CREATE SCHEMA analytics;
    END IF;
    IF to_regclass('analytics.roles') IS NULL THEN
        -- sql/grants.sql reads the names here. Roles belong to the server: another database on it, in which this file was not
        -- run, must not open its tables to ours.
        CREATE TABLE analytics.roles (
            duty      text PRIMARY KEY CHECK (duty IN ('owner', 'writer', 'reader')),
            role_name name NOT NULL
        );
        COMMENT ON TABLE analytics.roles IS
            'Who is owner, writer and reader: written by sql/roles.sql, read by sql/grants.sql.';
    END IF;

    FOR chosen IN
        SELECT duty,
               coalesce(nullif(current_setting(format('analytics.%s_role', duty), true), ''),
                        (SELECT r.role_name FROM analytics.roles r WHERE r.duty = duties.duty),
                        'ingest_' || duty)::name AS role_name
        FROM unnest(ARRAY['owner', 'writer', 'reader']) AS duties (duty)
    LOOP
        -- The owner needs LOGIN for TimescaleDB's jobs, too, which run as it.
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = chosen.role_name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', chosen.role_name);
        END IF;
        INSERT INTO analytics.roles (duty, role_name)
        VALUES (chosen.duty, chosen.role_name)
        ON CONFLICT (duty) DO UPDATE SET role_name = excluded.role_name;
    END LOOP;
    SELECT role_name, oid INTO STRICT owner_role, owner_oid
    FROM analytics.roles JOIN pg_roles ON rolname = role_name
    WHERE duty = 'owner';
    SELECT role_name INTO STRICT writer_role FROM analytics.roles WHERE duty = 'writer';
    SELECT role_name INTO STRICT reader_role FROM analytics.roles WHERE duty = 'reader';

    -- Only who is a member of a role may give things to it; a superuser is one of every role.
    IF NOT pg_has_role(owner_role, 'USAGE') THEN
        EXECUTE format('GRANT %I TO CURRENT_USER', owner_role);
    END IF;

    -- PUBLIC may do this in a new database, but not in every other. The writer's staging tables are temporary ones.
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I, %I, %I', current_database(), owner_role, writer_role, reader_role);
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), writer_role);

    -- A server that preloads TimescaleDB was set up for it. Made here, the extension asks no right of the owner. The setting
    -- exists where the library is loaded, and everybody sees it; shared_preload_libraries is for superusers to see.
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
       AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
       AND EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers')
    THEN
        CREATE EXTENSION timescaledb SCHEMA public;
    END IF;

    -- From here on it is about what is there already; in a new database, that is the schema and analytics.roles.
    IF (SELECT nspowner FROM pg_namespace WHERE nspname = 'analytics') <> owner_oid THEN
        EXECUTE format('ALTER SCHEMA analytics OWNER TO %I', owner_role);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA analytics TO %I, %I', writer_role, reader_role);

    -- Tables, partitions and views. Indexes, sequences of columns, chunks and jobs of a table go with it.
    FOR statement IN
        SELECT format(
            'ALTER %s %s OWNER TO %I',
            CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, oid::regclass, owner_role)
        FROM pg_class
        WHERE relnamespace = 'analytics'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
          AND relowner <> owner_oid
        ORDER BY oid
    LOOP
        BEGIN
            EXECUTE statement;
        EXCEPTION WHEN feature_not_supported THEN
            -- A continuous aggregate: a view to the catalog, and to ALTER a materialized one.
            EXECUTE replace(statement, 'ALTER VIEW', 'ALTER MATERIALIZED VIEW');
        END;
    END LOOP;

    FOR statement IN
        SELECT format('ALTER ROUTINE %s OWNER TO %I', oid::regprocedure, owner_role)
        FROM pg_proc
        WHERE pronamespace = 'analytics'::regnamespace AND proowner <> owner_oid
    LOOP
        EXECUTE statement;
    END LOOP;

    IF to_regclass('timescaledb_information.jobs') IS NOT NULL THEN
        FOR statement IN
            EXECUTE $jobs$
                SELECT format('SELECT %s.delete_job(%s)', extnamespace::regnamespace, job_id)
                FROM timescaledb_information.jobs, pg_extension
                WHERE proc_schema = 'analytics' AND owner <> $1 AND extname = 'timescaledb'
            $jobs$ USING owner_oid
        LOOP
            RAISE NOTICE '%: run `ingest policies apply` as % to make the job again', statement, owner_role;
            EXECUTE statement;
        END LOOP;
    END IF;

    IF has_schema_privilege(writer_role, to_regnamespace('public'), 'CREATE') THEN
        RAISE WARNING '% may make tables in the schema public, because PUBLIC may, as before PostgreSQL 15', writer_role
            USING HINT = 'If no other program needs it: REVOKE CREATE ON SCHEMA public FROM PUBLIC;';
    END IF;
END
$$;
