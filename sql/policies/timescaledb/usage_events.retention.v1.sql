-- Retention of analytics.usage_events on TimescaleDB Community: the database's own retention policy drops whole chunks.
--
-- Needs:    migrations 0001 to 0010; usage_events.rollups.v1.sql before it, run to the end.
-- Settings: analytics.retention_days (what was applied last, or 180): how many days events are kept.
-- Undo:     SELECT remove_retention_policy('analytics.usage_events'); what was dropped stays dropped.
-- Look:     SELECT * FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention';
--
-- A chunk goes when all of it is three days past the retention. The rollups are refreshed up to two days past it, so no refresh
-- ever reaches a dropped chunk, where it would delete the rollup, and what arrives at the last moment is rolled up in time.
--
-- A shorter retention deletes rows: it is refused unless the session says SET analytics.allow_data_loss = on.

DO $$
DECLARE
    wanted constant interval := make_interval(days => analytics.setting('retention_days') + 3);
    kept constant interval := (
        SELECT (config ->> 'drop_after')::interval
        FROM timescaledb_information.jobs
        WHERE proc_name = 'policy_retention' AND hypertable_schema = 'analytics' AND hypertable_name = 'usage_events');
BEGIN
    PERFORM analytics.check_retention_change('usage_events', kept, wanted);
    -- Older than this the rollups' job does not reach: what is there must be in the rollups before the raw rows go.
    IF NOT analytics.rollups_reach(now() - wanted) THEN
        RAISE EXCEPTION 'analytics.usage_events has rows past the retention that the rollups do not hold yet'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'CALL analytics.refresh_rollups(0, ''{}''); which takes all there is, then run this file again.';
    END IF;
    PERFORM analytics.ensure_timescaledb_policy('usage_events', 'policy_retention', 'drop_after', wanted);
END
$$;

SELECT analytics.record_policy('usage_events.retention', 1, ARRAY['retention_days']);
