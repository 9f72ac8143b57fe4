-- Why staged archives were not stored. Returns (ord, outcome), outcome being 'duplicate', 'conflict' (as in
-- usage_events.judge.sql) or 'unknown_event' (the usage event is not stored, so nothing could be claimed).
--
-- $1 integer[]: the `ord`s that message_archives.load.sql returned.
SELECT staged.ord,
       CASE
           WHEN ledger.event_id IS NULL THEN 'unknown_event'
           WHEN ledger.fingerprint IN (
               staged.fingerprint,
               hash_record_extended(ROW (user_id, service, prompt_full, response_full, staged.stored_at), 0)
           ) THEN 'duplicate'
           ELSE 'conflict'
       END AS outcome
FROM staged_message_archives staged
LEFT JOIN analytics.message_archive_ids ledger USING (event_id)
WHERE staged.ord = ANY ($1::integer[])
