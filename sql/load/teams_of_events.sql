-- The teams of usage events, by id; those that are not stored are left out. Asked before archives are stored for a key that is
-- bound to teams: an archive has no team of its own.
--
-- $1 uuid[]: ids.
--
-- One look into one chunk for each id, because the ledger has its time: a plain join may read all chunks.
SELECT ledger.event_id, event.team
FROM analytics.usage_event_ids ledger
CROSS JOIN LATERAL (
    SELECT team
    FROM analytics.usage_events
    WHERE event_time = ledger.event_time AND event_id = ledger.event_id
    LIMIT 1
) event
WHERE ledger.event_id = ANY ($1::uuid[])
