-- Pruning of the ledger on TimescaleDB Community: a job of the database.
--
-- Needs:    migrations 0001 to 0014.
-- Settings: analytics.dedupe_window_days (what was applied last, or 180): how many days ids are remembered. The service takes no
--           event that is older, so that no id that was forgotten comes back to life.
-- Undo:     SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE proc_name = 'prune_ledger';
--           What was forgotten stays forgotten.
-- Look:     SELECT * FROM timescaledb_information.job_stats JOIN timescaledb_information.jobs USING (job_id);
--
-- By hand: CALL analytics.prune_ledger(0, '{"dedupe_window_days": 180}');

SELECT analytics.ensure_job(
    'usage_event_ids.pruning', 'analytics.prune_ledger',
    jsonb_build_object('dedupe_window_days', analytics.setting('dedupe_window_days', 'usage_event_ids.pruning')), interval '1 hour');

SELECT analytics.record_policy('usage_event_ids.pruning', 2, ARRAY['dedupe_window_days']);
