-- What the tables take, on TimescaleDB Community. bytes_uncompressed and bytes_compressed are those of the compressed chunks,
-- before and after.
--
-- `rows` is an estimate: what compressed chunks had when they were compressed first (not what came late and is compressed since),
-- and what ANALYZE found in the others; one never analyzed counts as many as its pages would hold at 200 bytes each.
-- (approximate_row_count saw 3,360 of 88,000 rows in small compressed chunks, on TimescaleDB 2.28.3.)
WITH chunks AS (
    SELECT hypertable_name, format('%I.%I', chunk_schema, chunk_name)::regclass AS chunk, chunk_schema, chunk_name
    FROM timescaledb_information.chunks
    WHERE hypertable_schema = 'analytics'
), counted AS (
    SELECT hypertable_name,
           count(*) AS chunks,
           sum(coalesce(numrows_pre_compression, 0)
               + CASE WHEN reltuples >= 0 AND relpages > 0
                      THEN reltuples * pg_relation_size(chunk) / (relpages * 8192.0)
                      ELSE pg_relation_size(chunk) / 200.0
                 END)::bigint AS rows
    FROM chunks
    JOIN pg_class ON pg_class.oid = chunk
    LEFT JOIN _timescaledb_catalog.chunk catalog ON (schema_name, table_name) = (chunk_schema, chunk_name)
    LEFT JOIN _timescaledb_catalog.compression_chunk_size compressed ON compressed.chunk_id = catalog.id
    GROUP BY hypertable_name
)
SELECT tables.hypertable_name                               AS table_name,
       coalesce(counted.chunks, 0)                          AS chunks,
       coalesce(stats.number_compressed_chunks, 0)          AS compressed_chunks,
       coalesce(counted.rows, 0)                            AS rows,
       hypertable_size(tables.relation)                     AS bytes,
       stats.before_compression_total_bytes::bigint         AS bytes_uncompressed,
       stats.after_compression_total_bytes::bigint          AS bytes_compressed
FROM (
    SELECT hypertable_name, format('%I.%I', hypertable_schema, hypertable_name)::regclass AS relation
    FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'analytics' AND hypertable_name IN ('usage_events', 'message_archives')
) tables
LEFT JOIN counted USING (hypertable_name)
LEFT JOIN LATERAL hypertable_columnstore_stats(tables.relation) stats ON true
ORDER BY tables.hypertable_name
