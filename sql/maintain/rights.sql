-- Whether this user may maintain the tables: only their owner may drop their partitions.
SELECT pg_has_role(relowner, 'USAGE') AS is_owner
FROM pg_class
WHERE oid = 'analytics.maintenance_jobs'::regclass
