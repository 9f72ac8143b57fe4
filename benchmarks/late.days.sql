-- How many events happened on each day of a time.
--
-- %(begin)s, %(end)s timestamptz: the time, from midnight to midnight in UTC.
SELECT date_bin('24 hours', event_time, %(begin)s) AS day, count(*)
FROM analytics.usage_events
WHERE event_time >= %(begin)s AND event_time < %(end)s
GROUP BY 1
ORDER BY 1
