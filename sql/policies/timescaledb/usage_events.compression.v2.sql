-- Compression of analytics.usage_events on TimescaleDB Community: chunks move to the columnstore.
--
-- Needs:    migrations 0001 to 0014.
-- Settings: analytics.compression_after_days (what was applied last, or 7): how old a chunk is when it is compressed.
-- Undo:     CALL remove_columnstore_policy('analytics.usage_events'); compressed chunks stay readable and writable. To have
--           them as they were: SELECT decompress_chunk(c, true) FROM show_chunks('analytics.usage_events') c; inserts into a
--           chunk wait while it is decompressed.
-- Look:     SELECT * FROM chunk_columnstore_stats('analytics.usage_events');
--
-- Order event_time DESC, no segment column, a bloom filter on user_id. Measured on TimescaleDB 2.28.3, 2 cores, a chunk of
-- 400,000 events of the benchmarks' generator, 186 MB with its indexes; medians, warm:
--                                   MB   one event by   one user's   tokens by    an hour's   latest 50
--                                        id and time    day          team, a day  rollup
--   not compressed                 186       0.7 ms       0.7 ms       108 ms       14 ms        0.8 ms
--   this                          26.8       0.8          8.3           11          11           0.9
--   without the bloom filter      26.7       0.8         12.7           11          11           0.9
--   bloom on event_id, too        27.2       2.0          8.2           12          11           0.9
--   TimescaleDB's automatic ones  28.3       0.7          8.5           12          11           1.1
--   segmentby team                24.4       1.4          5.2            3          12         186
--   TimescaleDB's own default     38.9      14.4          0.8           26          66         289
-- * A filter on event_id is looked at before the time is, which makes the lookup that knows the time slower; the ledger knows it.
-- * By team it would be a tenth smaller, but `team` is whatever clients send: with 2000 teams it is 3 % larger, and an hour's
--   rollup takes twice as long. Reports by team read the rollups.
-- * Late rows cost no more than others: 1000 of them 18.8 ms into a compressed chunk, 22.0 ms into one that is not.
--   Compressing such a chunk again takes 0.03 to 1.1 s and holds up no insert; the first compression (1.4 s) holds up inserts
--   into that chunk.

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
        JOIN timescaledb_information.hypertables ON hypertable_name = 'usage_events' AND hypertable_schema = 'analytics'
        WHERE hypertable = 'analytics.usage_events'::regclass AND compression_enabled
          AND settings.orderby = 'event_time DESC' AND coalesce(settings.segmentby, '') = '')
    THEN
        -- Everything is said, also that there is no segment column: what is left out, TimescaleDB chooses by itself.
        ALTER TABLE analytics.usage_events SET (
            timescaledb.enable_columnstore,
            timescaledb.orderby = 'event_time DESC',
            timescaledb.segmentby = '');
        IF can_choose_filters THEN
            ALTER TABLE analytics.usage_events SET (timescaledb.sparse_index = 'bloom(user_id)');
        END IF;
    END IF;
    PERFORM analytics.ensure_timescaledb_policy(
        'usage_events', 'policy_compression', 'compress_after',
        make_interval(days => analytics.setting('compression_after_days', 'usage_events.compression')));
END
$$;

SELECT analytics.record_policy('usage_events.compression', 2, ARRAY['compression_after_days']);
