-- Retention of analytics.message_archives on TimescaleDB Community: the database's own retention policy drops whole chunks.
--
-- Needs:    migrations 0001 to 0010.
-- Settings: analytics.retention_days (what was applied last, or 180): how many days archives are kept.
-- Undo:     SELECT remove_retention_policy('analytics.message_archives'); what was dropped stays dropped.
-- Look:     SELECT * FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention';
--
-- A chunk goes when all of it is three days past the retention.
--
-- A shorter retention deletes rows: it is refused unless the session says SET analytics.allow_data_loss = on.

DO $$
DECLARE
    wanted constant interval := make_interval(days => analytics.setting('retention_days') + 3);
    kept constant interval := (
        SELECT (config ->> 'drop_after')::interval
        FROM timescaledb_information.jobs
        WHERE proc_name = 'policy_retention' AND hypertable_schema = 'analytics' AND hypertable_name = 'message_archives');
BEGIN
    PERFORM analytics.check_retention_change('message_archives', kept, wanted);
    PERFORM analytics.ensure_timescaledb_policy('message_archives', 'policy_retention', 'drop_after', wanted);
END
$$;

SELECT analytics.record_policy('message_archives.retention', 1, ARRAY['retention_days']);
