-- What the tables take, on TimescaleDB's Apache edition, which compresses nothing. `rows` is an estimate; a chunk that was never
-- analyzed counts as many as its pages would hold at 200 bytes each.
SELECT hypertable_name                                                                      AS table_name,
       count(pg_class.oid)                                                                  AS chunks,
       NULL::bigint                                                                         AS compressed_chunks,
       coalesce(sum(
           CASE WHEN reltuples >= 0 AND relpages > 0
                THEN reltuples * pg_relation_size(pg_class.oid) / (relpages * 8192.0)
                ELSE pg_relation_size(pg_class.oid) / 200.0
           END), 0)::bigint                                                                 AS rows,
       hypertable_size(format('%I.%I', hypertable_schema, hypertable_name)::regclass)       AS bytes,
       NULL::bigint                                                                         AS bytes_uncompressed,
       NULL::bigint                                                                         AS bytes_compressed
FROM timescaledb_information.hypertables
LEFT JOIN LATERAL show_chunks(format('%I.%I', hypertable_schema, hypertable_name)::regclass) AS chunk ON true
LEFT JOIN pg_class ON pg_class.oid = chunk
WHERE hypertable_schema = 'analytics' AND hypertable_name IN ('usage_events', 'message_archives')
GROUP BY hypertable_schema, hypertable_name
ORDER BY hypertable_name
