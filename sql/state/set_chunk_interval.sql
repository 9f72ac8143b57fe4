-- TimescaleDB only: how much time new chunks hold. Chunks that exist stay as they are. Does nothing where the interval is set
-- already.
--
-- $1 integer: hours.
SELECT set_chunk_time_interval(format('%I.%I', hypertable_schema, hypertable_name)::regclass, make_interval(hours => $1))
FROM timescaledb_information.dimensions
WHERE hypertable_schema = 'analytics'
  AND hypertable_name IN ('usage_events', 'message_archives')
  AND dimension_number = 1
  AND time_interval IS DISTINCT FROM make_interval(hours => $1)
