-- Partitions of analytics.usage_events on PostgreSQL: a job that `ingest maintain` runs; made days ahead, so that no batch
-- has to. What falls outside of them gets its partition from the batch that needs it.
--
-- Needs:    migrations 0001 to 0014.
-- Settings: analytics.chunk_time_interval_hours (what was applied last, or 24): how much time a new partition holds.
-- Undo:     DELETE FROM analytics.maintenance_jobs WHERE policy = 'usage_events.partitions'; the partitions stay.
-- Look:     SELECT * FROM analytics.maintenance_jobs; SELECT * FROM analytics.partitions;
--
-- By hand: CALL analytics.make_partitions_ahead('usage_events', '{"chunk_time_interval_hours": 24}');

SELECT analytics.ensure_job(
    'usage_events.partitions', $$CALL analytics.make_partitions_ahead('usage_events', $1)$$,
    jsonb_build_object('chunk_time_interval_hours', analytics.setting('chunk_time_interval_hours', 'usage_events.partitions')), interval '1 hour', 10);

SELECT analytics.record_policy('usage_events.partitions', 2, ARRAY['chunk_time_interval_hours']);
