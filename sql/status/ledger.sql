-- The ledger of events: rows (an estimate, from the last ANALYZE and the size since), bytes with indexes, the oldest entry.
SELECT CASE WHEN relpages > 0 AND reltuples >= 0
            THEN (reltuples * pg_relation_size(oid) / (relpages * 8192.0))::bigint
            ELSE (SELECT count(*) FROM analytics.usage_event_ids)
       END                              AS rows,
       pg_total_relation_size(oid)      AS bytes,
       analytics.oldest_id_time()       AS oldest
FROM pg_class
WHERE oid = 'analytics.usage_event_ids'::regclass
