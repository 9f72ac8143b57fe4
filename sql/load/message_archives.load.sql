-- Claims the staged archives whose usage event is stored, and stores those whose claim won. Returns `ord` of every staged
-- row that was not stored; message_archives.judge.sql says why.
--
-- $1 timestamptz: when an archive without stored_at was stored.
--
-- As usage_events.load.sql; the join with the ledger of events keeps the foreign key from failing the whole batch.
WITH claimed AS (
    INSERT INTO analytics.message_archive_ids (event_id, stored_at, fingerprint)
    SELECT staged.event_id, coalesce(staged.stored_at, $1), staged.fingerprint
    FROM staged_message_archives staged
    JOIN analytics.usage_event_ids event USING (event_id)
    WHERE NOT staged.is_repeat
    ORDER BY staged.event_id
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id, stored_at
), stored AS (
    INSERT INTO analytics.message_archives (event_id, stored_at, user_id, service, prompt_full, response_full)
    SELECT staged.event_id, claimed.stored_at, staged.user_id, staged.service, staged.prompt_full, staged.response_full
    FROM staged_message_archives staged
    JOIN claimed USING (event_id)
    WHERE NOT staged.is_repeat
)
SELECT ord
FROM staged_message_archives
LEFT JOIN claimed USING (event_id)
WHERE is_repeat OR claimed.event_id IS NULL
