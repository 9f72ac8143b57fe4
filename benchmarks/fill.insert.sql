-- Stores events in table and ledger, as if the service had: each with an id of its own, in order of time.
--
-- Reads the temporary table `templates`. What is not an event's own, its user, team, prompt and so on, is that of a template;
-- they come one after the other, as in the bodies that load generators send.
--
-- $1 integer:     how many.
-- $2 timestamptz: the first one's time. $3 interval: in how much time from then on they are.
-- $4 integer:     the version of UUIDs, 4 or 7.
--
-- A UUIDv7 (RFC 9562, section 5.7) is a UUIDv4 with its first six bytes replaced by the milliseconds of the event's time, and
-- the version by 7, which is two more bits.
--
-- The ledger's rows are inserted in the order of their ids, as the service does with a group of batches; here it is what makes
-- random ids quick to insert. The fingerprint is any number: nobody will send these events again.
WITH stored AS (
    INSERT INTO analytics.usage_events (
        event_id, event_time, user_id, team, service, provider, model, total_tokens, latency_ms, status_code, error_type,
        prompt, extra)
    SELECT CASE $4::integer
               WHEN 4 THEN random_id
               WHEN 7 THEN encode(
                   set_bit(set_bit(
                       overlay(uuid_send(random_id) PLACING substring(int8send(floor(1000 * extract(epoch FROM time))::bigint) FROM 3) FROM 1),
                       52, 1), 53, 1),
                   'hex')::uuid
           END,
           time, user_id, team, service, provider, model, total_tokens, latency_ms, status_code, error_type, prompt, extra
    FROM (
        SELECT n, gen_random_uuid() AS random_id, $2::timestamptz + $3::interval * (n / $1::double precision) AS time
        FROM generate_series(0, $1::integer - 1) AS n
        OFFSET 0 -- or the id would be drawn anew wherever it is named
    ) drawn
    JOIN templates ON number = n % (SELECT count(*) FROM templates)
    RETURNING event_id, event_time
)
INSERT INTO analytics.usage_event_ids (event_id, event_time, fingerprint)
SELECT event_id, event_time, uuid_hash_extended(event_id, 0)
FROM stored
ORDER BY event_id
