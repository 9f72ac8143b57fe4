-- Notes the hours that a group of batches wrote to, for the refresh of the rollups. Only where these are tables of ours:
-- TimescaleDB Community has an invalidation log of its own.
--
-- $1 timestamptz[]: the full hours. That takes the hours of rows that were not stored, too; computing an hour anew that did
--                   not change does no harm.
INSERT INTO analytics.usage_changes (rollup, bucket)
SELECT 'usage_hourly', hour
FROM unnest($1::timestamptz[]) AS hour
