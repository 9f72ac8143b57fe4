-- Pruning of the ledger on TimescaleDB's Apache edition: a job that `ingest maintain` runs.
--
-- Needs:    migrations 0001 to 0010.
-- Settings: analytics.dedupe_window_days (what was applied last, or 180): how many days ids are remembered. The service takes no
--           event that is older, so that no id that was forgotten comes back to life.
-- Undo:     DELETE FROM analytics.maintenance_jobs WHERE policy = 'usage_event_ids.pruning';
--           What was forgotten stays forgotten.
-- Look:     SELECT * FROM analytics.maintenance_jobs;
--
-- By hand: CALL analytics.prune_ledger(0, '{"dedupe_window_days": 180}');

SELECT analytics.ensure_job(
    'usage_event_ids.pruning', 'CALL analytics.prune_ledger(0, $1)',
    jsonb_build_object('dedupe_window_days', analytics.setting('dedupe_window_days')), interval '1 hour', 40);

SELECT analytics.record_policy('usage_event_ids.pruning', 1, ARRAY['dedupe_window_days']);
