-- Ends sessions whose client gave up on them and that don't know: what was to tell them is lost on the way. They hold what they
-- claimed, and a COPY whose data does not come can be interrupted by nothing else. Returns (pid, backend_start, is_ended) of
-- those that are still at work, ended or not; the others are gone, or hold nothing.
--
-- $1 integer[]:          the process of each session, as load/session.sql tells it.
-- $2 timestamptz[]:      when that began.
-- $3 boolean[]:          whether it is a pooler's.
-- $4 double precision[]: how many seconds ago it was given up.
--
-- Behind a pooler, a session outlives its client and may be somebody else's by now. That one has moved since it was given up,
-- and is left alone; so is one that moved in the half second before that, which is for the pooler to end.
SELECT pid,
       backend_start,
       CASE
           WHEN (activity.wait_event = 'ClientRead' OR activity.state LIKE 'idle in transaction%')
               AND (NOT is_pooled OR activity.state_change < clock_timestamp() - make_interval(secs => seconds_ago + 0.5))
           THEN pg_terminate_backend(pid)
           ELSE false
       END AS is_ended
FROM unnest($1::integer[], $2::timestamptz[], $3::boolean[], $4::double precision[])
    AS lost (pid, backend_start, is_pooled, seconds_ago)
JOIN pg_stat_activity activity USING (pid, backend_start)
WHERE activity.state <> 'idle'
