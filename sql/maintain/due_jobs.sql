-- The jobs to run now, in their order.
--
-- $1 boolean: all of them, due or not, but for those that somebody paused.
SELECT policy, command, config
FROM analytics.maintenance_jobs
WHERE scheduled AND ($1 OR next_start <= now())
ORDER BY run_order, policy
