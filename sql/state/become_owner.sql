-- Goes on as the owner of the tables, if this user may: what policies make is to be the owner's, whoever applies them.
SELECT set_config('role', pg_get_userbyid(analytics.owner()), false)
WHERE pg_has_role(analytics.owner(), 'MEMBER')
