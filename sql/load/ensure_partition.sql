-- Plain PostgreSQL only: makes the partition that holds a moment, if there is none, and returns its range.
--
-- $1 text:        the table, without its schema.
-- $2 timestamptz: the moment.
-- $3 interval:    how wide a new partition is.
SELECT lower_bound, upper_bound
FROM analytics.ensure_partition($1, $2, $3)
