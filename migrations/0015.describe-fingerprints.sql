-- What a fingerprint is since the service makes it: the comment in the database, for the DBA who looks there.
--
-- Needs:    0002.
-- Settings: none.
-- Undo:     nothing to undo.
--
-- Entries that are there stay as they are: the service compares with both kinds (sql/load/usage_events.judge.sql).

COMMENT ON COLUMN analytics.usage_event_ids.fingerprint IS
    'XXH3 over the content, made by the service; of older entries hash_record_extended. '
    'Same id and same fingerprint: a duplicate; another fingerprint: a conflict.';
COMMENT ON COLUMN analytics.message_archive_ids.fingerprint IS
    'As of analytics.usage_event_ids.';
