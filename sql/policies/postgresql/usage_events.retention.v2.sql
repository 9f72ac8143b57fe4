-- Retention of analytics.usage_events on PostgreSQL: a job that `ingest maintain` runs;
-- the partitions that are past it are detached and dropped, one by one.
--
-- Needs:    migrations 0001 to 0014; usage_events.rollups.v1.sql.
-- Settings: analytics.retention_days (what was applied last, or 180): how many days events are kept. Three days are added,
--           and the rollups must have them.
-- Undo:     UPDATE analytics.maintenance_jobs SET scheduled = false WHERE policy = 'usage_events.retention'; and all rows are kept
--           until it is true again. (Without the row, the next `ingest policies apply` would make it again, and asks for
--           --allow-data-loss then.) What was dropped stays dropped.
-- Look:     SELECT * FROM analytics.maintenance_jobs;
--
-- By hand, in psql: SELECT statement FROM analytics.statements_to_drop('usage_events', '{"retention_days": 180}') \gexec
--
-- A shorter retention deletes rows, and so does one that somebody removed: refused unless the session says
-- SET analytics.allow_data_loss = on.

SELECT analytics.check_retention('usage_events', analytics.setting('retention_days', 'usage_events.retention'));

SELECT analytics.ensure_job(
    'usage_events.retention', $$SELECT statement FROM analytics.statements_to_drop('usage_events', $1)$$,
    jsonb_build_object('retention_days', analytics.setting('retention_days', 'usage_events.retention')), interval '1 hour', 30);

SELECT analytics.record_policy('usage_events.retention', 2, ARRAY['retention_days']);
