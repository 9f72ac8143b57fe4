-- What of the rollups is to be computed anew, where they are tables: how many hours and days, and the oldest.
SELECT count(DISTINCT (rollup, bucket)) AS buckets, min(bucket) AS oldest
FROM analytics.usage_changes
