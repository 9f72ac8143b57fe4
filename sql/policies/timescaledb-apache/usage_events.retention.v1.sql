-- Retention of analytics.usage_events on TimescaleDB's Apache edition: a job that `ingest maintain` runs;
-- the chunks that are past it are dropped, one by one.
--
-- Needs:    migrations 0001 to 0010; usage_events.rollups.v1.sql.
-- Settings: analytics.retention_days (what was applied last, or 180): how many days events are kept. Three days are added,
--           and the rollups must have them.
-- Undo:     DELETE FROM analytics.maintenance_jobs WHERE policy = 'usage_events.retention'; what was dropped stays dropped.
-- Look:     SELECT * FROM analytics.maintenance_jobs;
--
-- By hand, in psql: SELECT statement FROM analytics.statements_to_drop('usage_events', '{"retention_days": 180}') \gexec
--
-- A shorter retention deletes rows: it is refused unless the session says SET analytics.allow_data_loss = on.

SELECT analytics.check_retention_change(
    'usage_events',
    (SELECT make_interval(days => (config ->> 'retention_days')::integer)
     FROM analytics.maintenance_jobs
     WHERE policy = 'usage_events.retention'),
    make_interval(days => analytics.setting('retention_days')));

SELECT analytics.ensure_job(
    'usage_events.retention', $$SELECT statement FROM analytics.statements_to_drop('usage_events', $1)$$,
    jsonb_build_object('retention_days', analytics.setting('retention_days')), interval '1 hour', 30);

SELECT analytics.record_policy('usage_events.retention', 1, ARRAY['retention_days']);
