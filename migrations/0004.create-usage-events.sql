-- analytics.usage_events, the hot data: one row per LLM call, partitioned by event_time.
--
-- Needs:    0001 to 0003.
-- Settings: analytics.chunk_time_interval_hours (24 if unset): how much time one chunk or partition holds.
-- Undo:     DROP TABLE analytics.usage_events.
--
-- There is no unique index on purpose: identity is the ledger's (0002), so late data costs what fresh data costs. Measured
-- with one, batches of 1000: 55,000 rows/s into open chunks, but 6,300 into compressed ones; without it 74,000 there.

DO $$
DECLARE
    edition constant text := (SELECT i.edition FROM analytics.installation i);
    chunk_interval constant interval := make_interval(
        hours => coalesce(nullif(current_setting('analytics.chunk_time_interval_hours', true), ''), '24')::int);
BEGIN
    EXECUTE $table$
        CREATE TABLE IF NOT EXISTS analytics.usage_events (
            event_id     uuid        NOT NULL,
            event_time   timestamptz NOT NULL,
            user_id      text        NOT NULL,
            team         text        NOT NULL,
            service      text        NOT NULL,
            provider     text        NOT NULL,
            model        text        NOT NULL,
            total_tokens integer     NOT NULL,
            latency_ms   integer,
            status_code  smallint,
            error_type   text,
            prompt       text,
            extra        jsonb,
            created_at   timestamptz NOT NULL DEFAULT now()
        )
    $table$ || CASE edition WHEN 'postgresql' THEN ' PARTITION BY RANGE (event_time)' ELSE '' END;

    IF edition <> 'postgresql' THEN
        -- Without the default columnstore of TimescaleDB 2.23 and later: compression is a policy of its own.
        PERFORM create_hypertable(
            'analytics.usage_events', by_range('event_time', chunk_interval),
            create_default_indexes => false, if_not_exists => true);
    END IF;
END
$$;

COMMENT ON TABLE analytics.usage_events IS
    'Usage events: one row per LLM call. Unique by event_id through analytics.usage_event_ids.';

CREATE INDEX IF NOT EXISTS usage_events_event_time_idx ON analytics.usage_events (event_time DESC);

CREATE INDEX IF NOT EXISTS usage_events_team_event_time_idx ON analytics.usage_events (team, event_time DESC);

CREATE INDEX IF NOT EXISTS usage_events_user_id_event_time_idx ON analytics.usage_events (user_id, event_time DESC);

CREATE INDEX IF NOT EXISTS usage_events_service_event_time_idx ON analytics.usage_events (service, event_time DESC);
