-- Retention of analytics.usage_events on TimescaleDB Community: the database's own retention policy drops whole chunks.
--
-- Needs:    migrations 0001 to 0014; usage_events.rollups.v2.sql before it, run to the end.
-- Settings: analytics.retention_days (what was applied last, or 180): how many days events are kept.
-- Undo:     SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs
--           WHERE proc_name = 'policy_retention' AND hypertable_name = 'usage_events';
--           and all rows are kept until it is true again. (remove_retention_policy removes the job; the next
--           `ingest policies apply` would make it again, and asks for --allow-data-loss then.) What was dropped stays dropped.
-- Look:     SELECT * FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention';
--
-- A chunk goes when all of it is three days past the retention. The rollups are refreshed up to two days past it, so no refresh
-- ever reaches a dropped chunk, where it would delete the rollup, and what arrives at the last moment is rolled up in time.
--
-- A shorter retention deletes rows, and so does one that somebody removed: refused unless the session says
-- SET analytics.allow_data_loss = on.

DO $$
DECLARE
    days constant integer := analytics.setting('retention_days', 'usage_events.retention');
    wanted constant interval := make_interval(days => days + 3);
    kept constant interval := analytics.retention_in_force('usage_events');
BEGIN
    PERFORM analytics.check_retention('usage_events', days);
    IF to_regclass('analytics.usage_hourly') IS NULL
       OR NOT EXISTS (SELECT FROM timescaledb_information.jobs WHERE proc_schema = 'analytics' AND proc_name = 'refresh_rollups')
    THEN
        RAISE EXCEPTION 'without rollups nothing would be left of what the retention drops'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Run usage_events.rollups.v2.sql before.';
    END IF;
    -- The rollups' job looks from a full day on that begins up to two days past the retention. Where this keeps less than now, a
    -- refresh must have taken all there is before, what came late since the last one included.
    IF (kept IS NULL OR wanted < kept)
       AND EXISTS (SELECT FROM analytics.raw_ranges() WHERE range_start < now() - make_interval(days => days + 1))
       AND analytics.time_bound('all_refreshed_at') < now() - interval '1 hour'
    THEN
        RAISE EXCEPTION 'analytics.usage_events has rows past a retention of % days that the rollups may not hold yet', days
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'CALL analytics.refresh_rollups(0, ''{"everything": true}''); then run this file again.';
    END IF;
    IF wanted < kept THEN
        -- Not while a refresh runs that still looks as far back as before.
        PERFORM pg_advisory_xact_lock(hashtextextended('analytics.refresh_rollups', 0));
    END IF;
    PERFORM analytics.ensure_timescaledb_policy('usage_events', 'policy_retention', 'drop_after', wanted);
END
$$;

SELECT analytics.record_policy('usage_events.retention', 2, ARRAY['retention_days']);
