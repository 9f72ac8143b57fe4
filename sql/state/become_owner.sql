-- Goes on as the owner of the tables, if this user may: what policies make is to be the owner's, whoever applies them.
--
-- may_apply: whether we are the owner now, or have the owner's rights at least.
SELECT CASE
           WHEN pg_has_role(analytics.owner(),
                            CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)
           THEN set_config('role', pg_get_userbyid(analytics.owner()), false) IS NOT NULL
           ELSE pg_has_role(analytics.owner(), 'USAGE')
       END AS may_apply
