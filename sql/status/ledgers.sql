-- The two ledgers for the metrics: the stream whose ids they hold, rows, and bytes with indexes. Looks at no row, so that it may
-- be asked every few seconds, by the writer too. Rows are an estimate: of the last ANALYZE, with the size since, and before the
-- first one of the size alone, for a row takes 60 bytes.
SELECT stream,
       CASE WHEN relpages > 0 AND reltuples >= 0
            THEN reltuples * pg_relation_size(oid) / (relpages * 8192.0)
            ELSE pg_relation_size(oid) / 60
       END::bigint                      AS rows,
       pg_total_relation_size(oid)      AS bytes
FROM (VALUES
    ('usage_events',     'analytics.usage_event_ids'::regclass),
    ('message_archives', 'analytics.message_archive_ids'::regclass)
) AS ledger (stream, relation)
JOIN pg_class ON oid = relation
