-- analytics.message_archives, the cold data: the full prompt and response of a call that is recorded already, partitioned by
-- stored_at.
--
-- Needs:    0001 to 0003.
-- Settings: analytics.chunk_time_interval_hours (24 if unset): how much time one chunk or partition holds.
-- Undo:     DROP TABLE analytics.message_archives.
--
-- That every archive has its usage event is kept by the ledger: analytics.message_archive_ids has the foreign key that a
-- hypertable can't carry.

DO $$
DECLARE
    edition constant text := (SELECT i.edition FROM analytics.installation i);
    chunk_interval constant interval := make_interval(
        hours => coalesce(nullif(current_setting('analytics.chunk_time_interval_hours', true), ''), '24')::int);
BEGIN
    EXECUTE $table$
        CREATE TABLE IF NOT EXISTS analytics.message_archives (
            event_id      uuid        NOT NULL,
            stored_at     timestamptz NOT NULL,
            user_id       text        NOT NULL,
            service       text        NOT NULL,
            prompt_full   text,
            response_full text
        )
    $table$ || CASE edition WHEN 'postgresql' THEN ' PARTITION BY RANGE (stored_at)' ELSE '' END;

    IF edition <> 'postgresql' THEN
        PERFORM create_hypertable(
            'analytics.message_archives', by_range('stored_at', chunk_interval),
            create_default_indexes => false, if_not_exists => true);
    END IF;
END
$$;

COMMENT ON TABLE analytics.message_archives IS
    'Full prompts and responses. Unique by event_id through analytics.message_archive_ids.';

CREATE INDEX IF NOT EXISTS message_archives_event_id_idx ON analytics.message_archives (event_id);
