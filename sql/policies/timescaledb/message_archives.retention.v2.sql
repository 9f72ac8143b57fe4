-- Retention of analytics.message_archives on TimescaleDB Community: the database's own retention policy drops whole chunks.
--
-- Needs:    migrations 0001 to 0014.
-- Settings: analytics.retention_days (what was applied last, or 180): how many days archives are kept.
-- Undo:     SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs
--           WHERE proc_name = 'policy_retention' AND hypertable_name = 'message_archives';
--           and all rows are kept until it is true again. (remove_retention_policy removes the job; the next
--           `ingest policies apply` would make it again, and asks for --allow-data-loss then.) What was dropped stays dropped.
-- Look:     SELECT * FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention';
--
-- A chunk goes when all of it is three days past the retention.
--
-- A shorter retention deletes rows, and so does one that somebody removed: refused unless the session says
-- SET analytics.allow_data_loss = on.

DO $$
DECLARE
    days constant integer := analytics.setting('retention_days', 'message_archives.retention');
    wanted constant interval := make_interval(days => days + 3);
BEGIN
    PERFORM analytics.check_retention('message_archives', days);
    PERFORM analytics.ensure_timescaledb_policy('message_archives', 'policy_retention', 'drop_after', wanted);
END
$$;

SELECT analytics.record_policy('message_archives.retention', 2, ARRAY['retention_days']);
