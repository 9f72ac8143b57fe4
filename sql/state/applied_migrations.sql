-- The names of the migrations that yoyo has applied.
SELECT migration_id
FROM analytics._yoyo_migration
ORDER BY migration_id
