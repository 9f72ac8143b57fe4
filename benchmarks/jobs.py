"""Jobs that would come between: TimescaleDB's scheduler refreshes rollups and compresses chunks when it likes."""

import psycopg

from ingest.settings import DatabaseUrl

NOTE = (
    "TimescaleDB's jobs are off the schedule: a refresh of the rollups or a compression in the middle would be measured with "
    "whoever has its turn then."
)


def pause(url: DatabaseUrl) -> bool:
    """Takes all jobs of a TimescaleDB Community database off the schedule. Returns False where there are none to be taken."""
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        found = connection.execute("SELECT edition FROM analytics.installation").fetchone()
        if found != ("timescaledb",):
            return False
        connection.execute("SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs")
        return True
