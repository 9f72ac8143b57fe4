-- Rollups where the database has no continuous aggregates: PostgreSQL and TimescaleDB's Apache edition. Nothing here is made on
-- TimescaleDB Community, where sql/policies/timescaledb/usage_events.rollups.v1.sql makes views of the same names and columns.
--
-- Needs:    0001 to 0008.
-- Settings: none.
-- Undo:     DROP VIEW analytics.usage_daily_by_user, analytics.usage_daily, analytics.usage_hourly; then the functions and
--           tables named here. What is older than the retention is nowhere else.
--
-- How it works, and it is how continuous aggregates work, too:
-- * Every batch notes in usage_changes which hours it wrote to, in its own transaction (sql/load/usage_events.note_changes).
-- * analytics.refresh_rollup_tables computes each noted hour anew, once it is over, and each day that has such an hour, and
--   moves the rollup's bound in analytics.time_bounds. Computing a bucket twice does no harm; nothing that did not change is
--   computed.
-- * The views join what is stored before the bound and what the raw rows say since: they are up to date at any moment. Only
--   what arrives late, for an hour that is stored already, is seen after the next refresh.

DO $$
BEGIN
    IF (SELECT edition FROM analytics.installation) = 'timescaledb' THEN
        RETURN;
    END IF;

    CREATE TABLE IF NOT EXISTS analytics.usage_changes (
        rollup text        NOT NULL,
        bucket timestamptz NOT NULL
    );
    COMMENT ON TABLE analytics.usage_changes IS
        'The buckets of a rollup whose raw rows changed since they were computed; the same one may stand here often.';

    -- latency_count: calls that have a latency. latency_le: see 0008.
    CREATE TABLE IF NOT EXISTS analytics.usage_hourly_stored (
        bucket         timestamptz NOT NULL,
        team           text        NOT NULL,
        service        text        NOT NULL,
        provider       text        NOT NULL,
        model          text        NOT NULL,
        requests       bigint      NOT NULL,
        errors         bigint      NOT NULL,
        total_tokens   bigint      NOT NULL,
        latency_count  bigint      NOT NULL,
        latency_ms_sum bigint,
        latency_ms_max integer,
        latency_le     bigint[]    NOT NULL,
        PRIMARY KEY (bucket, team, service, provider, model)
    );
    CREATE TABLE IF NOT EXISTS analytics.usage_daily_stored (LIKE analytics.usage_hourly_stored INCLUDING INDEXES);
    CREATE TABLE IF NOT EXISTS analytics.usage_daily_by_user_stored (
        bucket         timestamptz NOT NULL,
        user_id        text        NOT NULL,
        team           text        NOT NULL,
        service        text        NOT NULL,
        provider       text        NOT NULL,
        model          text        NOT NULL,
        requests       bigint      NOT NULL,
        errors         bigint      NOT NULL,
        total_tokens   bigint      NOT NULL,
        latency_count  bigint      NOT NULL,
        latency_ms_sum bigint,
        latency_ms_max integer,
        latency_le     bigint[]    NOT NULL,
        PRIMARY KEY (bucket, user_id, team, service, provider, model)
    );

    -- The three ways to aggregate, each used by a view and by the refresh. PostgreSQL puts the body of such a function into the
    -- query that calls it, so conditions on its columns reach the tables.
    CREATE OR REPLACE FUNCTION analytics.aggregate_hours(from_time timestamptz, until_time timestamptz)
    RETURNS SETOF analytics.usage_hourly_stored
    LANGUAGE sql STABLE
    AS $body$
        SELECT date_bin('1 hour', event_time, '2000-01-01 00:00:00+00'),
               team, service, provider, model,
               count(*),
               count(*) FILTER (WHERE status_code >= 400 OR error_type IS NOT NULL),
               sum(total_tokens),
               count(latency_ms),
               sum(latency_ms),
               max(latency_ms),
               ARRAY[
                   count(*) FILTER (WHERE latency_ms <= 10), count(*) FILTER (WHERE latency_ms <= 16),
                   count(*) FILTER (WHERE latency_ms <= 25), count(*) FILTER (WHERE latency_ms <= 40),
                   count(*) FILTER (WHERE latency_ms <= 63), count(*) FILTER (WHERE latency_ms <= 100),
                   count(*) FILTER (WHERE latency_ms <= 160), count(*) FILTER (WHERE latency_ms <= 250),
                   count(*) FILTER (WHERE latency_ms <= 400), count(*) FILTER (WHERE latency_ms <= 630),
                   count(*) FILTER (WHERE latency_ms <= 1000), count(*) FILTER (WHERE latency_ms <= 1600),
                   count(*) FILTER (WHERE latency_ms <= 2500), count(*) FILTER (WHERE latency_ms <= 4000),
                   count(*) FILTER (WHERE latency_ms <= 6300), count(*) FILTER (WHERE latency_ms <= 10000),
                   count(*) FILTER (WHERE latency_ms <= 16000), count(*) FILTER (WHERE latency_ms <= 25000),
                   count(*) FILTER (WHERE latency_ms <= 40000), count(*) FILTER (WHERE latency_ms <= 63000),
                   count(*) FILTER (WHERE latency_ms <= 100000), count(*) FILTER (WHERE latency_ms <= 160000),
                   count(*) FILTER (WHERE latency_ms <= 250000), count(*) FILTER (WHERE latency_ms <= 400000),
                   count(*) FILTER (WHERE latency_ms <= 630000)
               ]
        FROM analytics.usage_events
        WHERE event_time >= from_time AND event_time < until_time
        GROUP BY 1, 2, 3, 4, 5
    $body$;

    CREATE OR REPLACE FUNCTION analytics.aggregate_days_by_user(from_time timestamptz, until_time timestamptz)
    RETURNS SETOF analytics.usage_daily_by_user_stored
    LANGUAGE sql STABLE
    AS $body$
        SELECT date_bin('1 day', event_time, '2000-01-01 00:00:00+00'),
               user_id, team, service, provider, model,
               count(*),
               count(*) FILTER (WHERE status_code >= 400 OR error_type IS NOT NULL),
               sum(total_tokens),
               count(latency_ms),
               sum(latency_ms),
               max(latency_ms),
               ARRAY[
                   count(*) FILTER (WHERE latency_ms <= 10), count(*) FILTER (WHERE latency_ms <= 16),
                   count(*) FILTER (WHERE latency_ms <= 25), count(*) FILTER (WHERE latency_ms <= 40),
                   count(*) FILTER (WHERE latency_ms <= 63), count(*) FILTER (WHERE latency_ms <= 100),
                   count(*) FILTER (WHERE latency_ms <= 160), count(*) FILTER (WHERE latency_ms <= 250),
                   count(*) FILTER (WHERE latency_ms <= 400), count(*) FILTER (WHERE latency_ms <= 630),
                   count(*) FILTER (WHERE latency_ms <= 1000), count(*) FILTER (WHERE latency_ms <= 1600),
                   count(*) FILTER (WHERE latency_ms <= 2500), count(*) FILTER (WHERE latency_ms <= 4000),
                   count(*) FILTER (WHERE latency_ms <= 6300), count(*) FILTER (WHERE latency_ms <= 10000),
                   count(*) FILTER (WHERE latency_ms <= 16000), count(*) FILTER (WHERE latency_ms <= 25000),
                   count(*) FILTER (WHERE latency_ms <= 40000), count(*) FILTER (WHERE latency_ms <= 63000),
                   count(*) FILTER (WHERE latency_ms <= 100000), count(*) FILTER (WHERE latency_ms <= 160000),
                   count(*) FILTER (WHERE latency_ms <= 250000), count(*) FILTER (WHERE latency_ms <= 400000),
                   count(*) FILTER (WHERE latency_ms <= 630000)
               ]
        FROM analytics.usage_events
        WHERE event_time >= from_time AND event_time < until_time
        GROUP BY 1, 2, 3, 4, 5, 6
    $body$;

    CREATE OR REPLACE VIEW analytics.usage_hourly AS
    SELECT * FROM analytics.usage_hourly_stored WHERE bucket < analytics.time_bound('usage_hourly')
    UNION ALL
    SELECT * FROM analytics.aggregate_hours(analytics.time_bound('usage_hourly'), 'infinity');

    CREATE OR REPLACE FUNCTION analytics.aggregate_days(from_time timestamptz, until_time timestamptz)
    RETURNS SETOF analytics.usage_daily_stored
    LANGUAGE sql STABLE
    AS $body$
        SELECT date_bin('1 day', bucket, '2000-01-01 00:00:00+00'),
               team, service, provider, model,
               sum(requests)::bigint,
               sum(errors)::bigint,
               sum(total_tokens)::bigint,
               sum(latency_count)::bigint,
               sum(latency_ms_sum)::bigint,
               max(latency_ms_max),
               ARRAY[
                   sum(latency_le[1]), sum(latency_le[2]), sum(latency_le[3]), sum(latency_le[4]), sum(latency_le[5]),
                   sum(latency_le[6]), sum(latency_le[7]), sum(latency_le[8]), sum(latency_le[9]), sum(latency_le[10]),
                   sum(latency_le[11]), sum(latency_le[12]), sum(latency_le[13]), sum(latency_le[14]), sum(latency_le[15]),
                   sum(latency_le[16]), sum(latency_le[17]), sum(latency_le[18]), sum(latency_le[19]), sum(latency_le[20]),
                   sum(latency_le[21]), sum(latency_le[22]), sum(latency_le[23]), sum(latency_le[24]), sum(latency_le[25])
               ]::bigint[]
        FROM analytics.usage_hourly
        WHERE bucket >= from_time AND bucket < until_time
        GROUP BY 1, 2, 3, 4, 5
    $body$;

    CREATE OR REPLACE VIEW analytics.usage_daily AS
    SELECT * FROM analytics.usage_daily_stored WHERE bucket < analytics.time_bound('usage_daily')
    UNION ALL
    SELECT * FROM analytics.aggregate_days(analytics.time_bound('usage_daily'), 'infinity');

    CREATE OR REPLACE VIEW analytics.usage_daily_by_user AS
    SELECT * FROM analytics.usage_daily_by_user_stored WHERE bucket < analytics.time_bound('usage_daily_by_user')
    UNION ALL
    SELECT * FROM analytics.aggregate_days_by_user(analytics.time_bound('usage_daily_by_user'), 'infinity');

    COMMENT ON VIEW analytics.usage_hourly IS 'Requests, errors, tokens and latencies by hour (UTC), team, service, provider, model.';
    COMMENT ON VIEW analytics.usage_daily IS 'Requests, errors, tokens and latencies by day (UTC), team, service, provider, model.';
    COMMENT ON VIEW analytics.usage_daily_by_user IS 'As usage_daily, by user_id too.';
END
$$;
