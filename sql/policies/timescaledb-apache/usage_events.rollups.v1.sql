-- Rollups on TimescaleDB's Apache edition: a job that `ingest maintain` runs, in the tables behind the views
-- analytics.usage_hourly, analytics.usage_daily and analytics.usage_daily_by_user. The views are up to date at any moment;
-- only what arrives late, for an hour or day that is stored already, waits for the next run.
--
-- Needs:    migrations 0001 to 0010 (0009 has the tables and views and says how they work).
-- Settings: none.
-- Undo:     DELETE FROM analytics.maintenance_jobs WHERE policy = 'usage_events.rollups'; The views go on being right, but ever
--           more slowly, and usage_events.retention drops nothing any more.
-- Look:     SELECT * FROM analytics.maintenance_jobs;
--
-- By hand: CALL analytics.refresh_rollup_tables();

-- Events that were stored before every batch left a note of its hours: each hour with events is noted, once.
INSERT INTO analytics.usage_changes (rollup, bucket)
SELECT DISTINCT 'usage_hourly', date_bin('1 hour', event_time, '2000-01-01 00:00:00+00')
FROM analytics.usage_events
WHERE NOT EXISTS (SELECT FROM analytics.policy_history WHERE policy = 'usage_events.rollups');

SELECT analytics.ensure_job(
    'usage_events.rollups', 'CALL analytics.refresh_rollup_tables()', '{}', interval '1 minute', 20);

SELECT analytics.record_policy('usage_events.rollups', 1, '{}');
