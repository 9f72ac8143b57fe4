-- The jobs to run now, in their order.
--
-- $1 boolean: all of them, due or not.
SELECT policy, command, config
FROM analytics.maintenance_jobs
WHERE $1 OR (scheduled AND next_start <= now())
ORDER BY run_order, policy
