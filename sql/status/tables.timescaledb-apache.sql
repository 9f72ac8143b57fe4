-- What the tables take, on TimescaleDB's Apache edition, which compresses nothing. `rows` is an estimate.
SELECT hypertable_name                                                                      AS table_name,
       (SELECT count(*) FROM show_chunks(format('%I.%I', hypertable_schema, hypertable_name)::regclass)) AS chunks,
       NULL::bigint                                                                         AS compressed_chunks,
       approximate_row_count(format('%I.%I', hypertable_schema, hypertable_name)::regclass) AS rows,
       hypertable_size(format('%I.%I', hypertable_schema, hypertable_name)::regclass)       AS bytes,
       NULL::bigint                                                                         AS bytes_uncompressed,
       NULL::bigint                                                                         AS bytes_compressed
FROM timescaledb_information.hypertables
WHERE hypertable_schema = 'analytics' AND hypertable_name IN ('usage_events', 'message_archives')
ORDER BY hypertable_name
