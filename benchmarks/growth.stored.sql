-- How many rows table and ledger have, and how many ids are in the table more than once.
--
-- %(begin)s timestamptz: from when on that is asked of the table; what is older was made by growth itself, not sent.
SELECT (SELECT count(*) FROM analytics.usage_events),
       (SELECT count(*) FROM analytics.usage_event_ids),
       (SELECT count(*)
        FROM (SELECT FROM analytics.usage_events WHERE event_time >= %(begin)s GROUP BY event_id HAVING count(*) > 1) twice)
