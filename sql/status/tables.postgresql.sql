-- What the tables take, on PostgreSQL, which compresses nothing. `rows` is an estimate; a partition that was never analyzed
-- counts as many as its pages would hold at 200 bytes each.
SELECT parent.relname                                                                       AS table_name,
       count(partition.oid)                                                                 AS chunks,
       NULL::bigint                                                                         AS compressed_chunks,
       coalesce(sum(
           CASE WHEN partition.reltuples >= 0 AND partition.relpages > 0
                THEN partition.reltuples * pg_relation_size(partition.oid) / (partition.relpages * 8192.0)
                ELSE pg_relation_size(partition.oid) / 200.0
           END), 0)::bigint                                                                 AS rows,
       coalesce(sum(pg_total_relation_size(partition.oid)), 0)::bigint                      AS bytes,
       NULL::bigint                                                                         AS bytes_uncompressed,
       NULL::bigint                                                                         AS bytes_compressed
FROM pg_class parent
LEFT JOIN pg_inherits ON inhparent = parent.oid
LEFT JOIN pg_class partition ON partition.oid = inhrelid
WHERE parent.relnamespace = 'analytics'::regnamespace AND parent.relname IN ('usage_events', 'message_archives')
GROUP BY parent.relname
ORDER BY parent.relname
