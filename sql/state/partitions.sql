-- The ranges that the native partitions of a table hold.
--
-- $1 text: the table, without its schema.
SELECT lower_bound, upper_bound
FROM analytics.partitions
WHERE table_name = $1 AND lower_bound IS NOT NULL AND upper_bound IS NOT NULL
