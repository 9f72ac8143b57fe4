-- The teams of usage events, by id; those that are not stored are left out. Asked before archives are stored for a key that is
-- bound to teams.
--
-- $1 uuid[]: ids.
SELECT event_id, team
FROM analytics.teams_of_events($1::uuid[])
