-- How large ledger and table are.
--
-- Returns one row: bytes of the ledger with its indexes, of its primary key alone, of the table with all its chunks or partitions
-- and their indexes; and how many of these there are.
SELECT pg_total_relation_size('analytics.usage_event_ids'),
       pg_relation_size('analytics.usage_event_ids_pkey'),
       coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint,
       count(*)
FROM pg_inherits
WHERE inhparent = 'analytics.usage_events'::regclass
