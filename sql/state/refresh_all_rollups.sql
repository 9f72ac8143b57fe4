-- TimescaleDB Community: brings everything that is there into the rollups, not only what the retention keeps. Thirty days of one
-- rollup are one transaction; a notice says which. What is in them already costs milliseconds.
CALL analytics.refresh_rollups(0, '{"everything": true}')
