-- What the table has of the events that a load generator sent.
--
-- Reads the temporary table `sent` (event_id, acknowledged). Returns one row: how many acknowledged events are missing, how
-- many of all are there more than once, and how many are there that were not acknowledged.
--
-- %(first)s, %(last)s timestamptz: between which all of them happened, so that only the chunks of that time are read.
WITH found AS (
    SELECT event_id, count(*) AS copies
    FROM analytics.usage_events
    WHERE event_time BETWEEN %(first)s AND %(last)s
    GROUP BY event_id
)
SELECT count(*) FILTER (WHERE acknowledged AND copies IS NULL),
       count(*) FILTER (WHERE copies > 1),
       count(*) FILTER (WHERE NOT acknowledged AND copies IS NOT NULL)
FROM sent
LEFT JOIN found USING (event_id)
