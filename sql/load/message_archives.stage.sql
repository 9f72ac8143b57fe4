-- The staging table for message archives: one a connection, made when the connection is opened, emptied by every commit.
--
-- ord, is_repeat, fingerprint: as in usage_events.stage.sql.
-- stored_at:   NULL where the client sent none. The fingerprint is over what was sent, so that a batch without stored_at,
--              sent again later, is a duplicate and no conflict.
CREATE TEMPORARY TABLE IF NOT EXISTS staged_message_archives (
    ord           integer NOT NULL,
    is_repeat     boolean NOT NULL,
    fingerprint   bigint  NOT NULL,
    event_id      uuid    NOT NULL,
    stored_at     timestamptz,
    user_id       text    NOT NULL,
    service       text    NOT NULL,
    prompt_full   text,
    response_full text
) ON COMMIT DELETE ROWS
