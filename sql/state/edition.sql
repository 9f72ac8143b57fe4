-- The edition that the tables were made on, and the one the database answers as now.
SELECT edition AS recorded, analytics.detected_edition() AS detected
FROM analytics.installation
