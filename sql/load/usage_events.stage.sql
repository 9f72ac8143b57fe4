-- The staging table for usage events: one a connection, made when the connection is opened, emptied by every commit. A
-- temporary table a batch would bloat the catalog.
--
-- ord:         the row's place in the group of batches, from 0.
-- is_repeat:   an earlier row of the group has the same event_id; the first one counts. Without the mark the same id twice
--              would multiply in the join of usage_events.load.sql.
-- fingerprint: over everything the client sent, made by the service (ingest/store/rows.py).
CREATE TEMPORARY TABLE IF NOT EXISTS staged_usage_events (
    ord          integer     NOT NULL,
    is_repeat    boolean     NOT NULL,
    fingerprint  bigint      NOT NULL,
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
    extra        jsonb
) ON COMMIT DELETE ROWS
