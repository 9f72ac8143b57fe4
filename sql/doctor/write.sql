-- What `ingest doctor` writes to see that the server can: about 1 MiB, which nobody keeps. A full disk refuses it. It is not seen
-- where temp_tablespaces names a disk of its own, nor if only that of the WAL is full.
CREATE TEMPORARY TABLE doctor_writes ON COMMIT DROP AS
SELECT number, 0::bigint AS padding
FROM generate_series(1, 25000) AS number
