-- Retention of analytics.message_archives on PostgreSQL: a job that `ingest maintain` runs;
-- the partitions that are past it are detached and dropped, one by one.
--
-- Needs:    migrations 0001 to 0014.
-- Settings: analytics.retention_days (what was applied last, or 180): how many days archives are kept. Three days are added.
-- Undo:     UPDATE analytics.maintenance_jobs SET scheduled = false WHERE policy = 'message_archives.retention'; and all rows are kept
--           until it is true again. (Without the row, the next `ingest policies apply` would make it again, and asks for
--           --allow-data-loss then.) What was dropped stays dropped.
-- Look:     SELECT * FROM analytics.maintenance_jobs;
--
-- By hand, in psql: SELECT statement FROM analytics.statements_to_drop('message_archives', '{"retention_days": 180}') \gexec
--
-- A shorter retention deletes rows, and so does one that somebody removed: refused unless the session says
-- SET analytics.allow_data_loss = on.

SELECT analytics.check_retention('message_archives', analytics.setting('retention_days', 'message_archives.retention'));

SELECT analytics.ensure_job(
    'message_archives.retention', $$SELECT statement FROM analytics.statements_to_drop('message_archives', $1)$$,
    jsonb_build_object('retention_days', analytics.setting('retention_days', 'message_archives.retention')), interval '1 hour', 30);

SELECT analytics.record_policy('message_archives.retention', 2, ARRAY['retention_days']);
