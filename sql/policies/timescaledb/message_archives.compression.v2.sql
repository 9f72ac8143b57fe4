-- Compression of analytics.message_archives on TimescaleDB Community: chunks move to the columnstore.
--
-- Needs:    migrations 0001 to 0014.
-- Settings: analytics.compression_after_days (what was applied last, or 7): how old a chunk is when it is compressed.
-- Undo:     CALL remove_columnstore_policy('analytics.message_archives'); compressed chunks stay readable and writable. To
--           have them as they were: SELECT decompress_chunk(c, true) FROM show_chunks('analytics.message_archives') c;
--           inserts into a chunk wait while it is decompressed.
-- Look:     SELECT * FROM chunk_columnstore_stats('analytics.message_archives');
--
-- Order stored_at DESC, no segment column, a bloom filter on event_id. Measured on TimescaleDB 2.28.3, 2 cores, 52,000
-- archives of the benchmarks' generator in 3 chunks, 112 MB; medians, warm:
--                                   MB   one archive    ten minutes
--                                        by id
--   not compressed                 112       0.5 ms        13 ms
--   this                          52.1       5.4           12
--   without the bloom filter      52.1       5.7           12
--   segmentby service             52.2       5.6           75
--   TimescaleDB's own default     71.0       8.7           46
-- * The text is nearly all of it, and how it is packed matters more than the layout: with lz4 it is 42.6 MB, compressed four
--   times as fast and read twice as fast. Where the server has lz4, for the role that owns the jobs: ALTER ROLE ingest_owner
--   SET default_toast_compression = 'lz4';

DO $$
DECLARE
    -- Before 2.22 a filter can't be asked for; 2.20 and 2.21 make one for each indexed column by themselves.
    can_choose_filters constant boolean := (
        SELECT string_to_array(substring(extversion FROM '^\d+\.\d+'), '.')::integer[] >= ARRAY[2, 22]
        FROM pg_extension
        WHERE extname = 'timescaledb');
BEGIN
    -- Said again even if it is the same, it would wait for an exclusive lock.
    IF NOT EXISTS (
        SELECT
        FROM timescaledb_information.hypertable_columnstore_settings settings
        JOIN timescaledb_information.hypertables ON hypertable_name = 'message_archives' AND hypertable_schema = 'analytics'
        WHERE hypertable = 'analytics.message_archives'::regclass AND compression_enabled
          AND settings.orderby = 'stored_at DESC' AND coalesce(settings.segmentby, '') = '')
    THEN
        -- Everything is said, also that there is no segment column: what is left out, TimescaleDB chooses by itself.
        ALTER TABLE analytics.message_archives SET (
            timescaledb.enable_columnstore,
            timescaledb.orderby = 'stored_at DESC',
            timescaledb.segmentby = '');
        IF can_choose_filters THEN
            ALTER TABLE analytics.message_archives SET (timescaledb.sparse_index = 'bloom(event_id)');
        END IF;
    END IF;
    PERFORM analytics.ensure_timescaledb_policy(
        'message_archives', 'policy_compression', 'compress_after',
        make_interval(days => analytics.setting('compression_after_days', 'message_archives.compression')));
END
$$;

SELECT analytics.record_policy('message_archives.compression', 2, ARRAY['compression_after_days']);
