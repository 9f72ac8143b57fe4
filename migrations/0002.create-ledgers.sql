-- The ledgers: which event ids are taken, for good. No hypertable and no partitioned table can hold a primary key without
-- its partition column, so identity lives in plain tables beside them; the foreign key too.
--
-- Needs:    0001.
-- Settings: none.
-- Undo:     DROP TABLE analytics.message_archive_ids, analytics.usage_event_ids. Events sent again would be stored twice.
--
-- A row takes about 90 bytes with its index entry. Rows past the dedupe window are pruned by the BRIN index on time.

CREATE TABLE IF NOT EXISTS analytics.usage_event_ids (
    event_id    uuid        PRIMARY KEY,
    event_time  timestamptz NOT NULL,
    fingerprint bigint      NOT NULL
);

COMMENT ON TABLE analytics.usage_event_ids IS
    'Ledger of usage events: one row for each event_id ever accepted, within the dedupe window.';
COMMENT ON COLUMN analytics.usage_event_ids.event_time IS
    'Where in analytics.usage_events the event is: a lookup by event_id starts here.';
COMMENT ON COLUMN analytics.usage_event_ids.fingerprint IS
    'hash_record_extended over the content. Same id and same fingerprint: a duplicate; another fingerprint: a conflict.';

CREATE INDEX IF NOT EXISTS usage_event_ids_event_time_brin
    ON analytics.usage_event_ids USING brin (event_time);

-- The cascade lets pruning work on one table: an archive's id means nothing without its event.
CREATE TABLE IF NOT EXISTS analytics.message_archive_ids (
    event_id    uuid        PRIMARY KEY REFERENCES analytics.usage_event_ids ON DELETE CASCADE,
    stored_at   timestamptz NOT NULL,
    fingerprint bigint      NOT NULL
);

COMMENT ON TABLE analytics.message_archive_ids IS
    'Ledger of message archives: one row for each event_id whose prompt and response are stored.';

CREATE INDEX IF NOT EXISTS message_archive_ids_stored_at_brin
    ON analytics.message_archive_ids USING brin (stored_at);
