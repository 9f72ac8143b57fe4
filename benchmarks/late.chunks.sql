-- The chunks of analytics.usage_events within a time, from when on each is, and whether it is compressed. TimescaleDB Community.
--
-- %(begin)s, %(end)s timestamptz: the time.
SELECT format('%%I.%%I', chunk_schema, chunk_name), range_start, is_compressed
FROM timescaledb_information.chunks
WHERE hypertable_schema = 'analytics' AND hypertable_name = 'usage_events'
  AND range_start >= %(begin)s AND range_end <= %(end)s
ORDER BY range_start
