-- Why staged rows were not stored. Returns (ord, outcome), outcome being 'duplicate' (the ledger has the id with the same
-- content) or 'conflict' (with other content).
--
-- $1 integer[]: the `ord`s that usage_events.load.sql returned.
--
-- A fingerprint is the service's XXH3 of what was sent. In the first releases it was hash_record_extended of the row, and an
-- entry of then is compared by that.
--
-- A statement of its own, because it needs a newer snapshot: the claim may have waited for a transaction that began to hold
-- the id after the claim's snapshot was taken. A row that finds no ledger entry is left out: the entry that beat it was
-- pruned in this instant, and the batch is to be tried again.
SELECT staged.ord,
       CASE
           WHEN ledger.fingerprint IN (
               staged.fingerprint,
               hash_record_extended(
                   ROW (staged.event_time, user_id, team, service, provider, model, total_tokens, latency_ms, status_code,
                        error_type, prompt, extra),
                   0)
           ) THEN 'duplicate'
           ELSE 'conflict'
       END AS outcome
FROM staged_usage_events staged
JOIN analytics.usage_event_ids ledger USING (event_id)
WHERE staged.ord = ANY ($1::integer[])
