-- The moment from which events are taken, whatever their age: what happened before it is dropped or forgotten already, and an
-- event of then would be counted twice or stored twice. NULL while nothing was.
SELECT max(moment) AS events_from
FROM analytics.time_bounds
WHERE name IN ('raw_rows_from', 'ids_from')
