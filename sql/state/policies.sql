-- What was applied last of each policy, and what is there of it now.
--
-- $1 text[]:  the policies, as <table>.<kind>.
-- $2 integer: the retention that is wanted, in days.
--
-- file, checksum, settings, applied_state, applied_at, applied_by: of analytics.policy_history; NULL where it never was.
-- actual_state: analytics.policy_state; NULL where nothing is there.
-- deletes_rows: whether it is a retention under which rows would go that are kept now.
SELECT wanted.policy,
       history.file,
       history.checksum,
       history.settings,
       history.state                            AS applied_state,
       history.applied_at,
       history.applied_by,
       analytics.policy_state(wanted.policy)    AS actual_state,
       CASE split_part(wanted.policy, '.', 2)
           WHEN 'retention' THEN analytics.retention_deletes(split_part(wanted.policy, '.', 1), $2)
           ELSE false
       END                                      AS deletes_rows
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (policy, place)
LEFT JOIN LATERAL (
    SELECT file, checksum, settings, state, applied_at, applied_by
    FROM analytics.policy_history
    WHERE policy_history.policy = wanted.policy
    ORDER BY id DESC
    LIMIT 1
) history ON true
ORDER BY wanted.place
