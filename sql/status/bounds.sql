-- How far each rollup is, and from when on raw rows and ids are complete.
SELECT name, moment
FROM analytics.time_bounds
ORDER BY name
