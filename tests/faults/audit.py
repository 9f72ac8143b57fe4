"""What the database has against what the clients were told."""

from dataclasses import dataclass

import psycopg

from ingest.settings import DatabaseUrl
from tests.faults.load import Account, Sent
from tests.reliability import Figures

COUNTS = """
    WITH stored AS (
        SELECT event_id, count(*) AS times, min(total_tokens) AS total_tokens FROM analytics.usage_events GROUP BY event_id
    ), known AS (
        SELECT told.*, total_tokens, coalesce(times, 0) AS times, ledger.event_id IS NOT NULL AS in_ledger
        FROM told LEFT JOIN stored USING (event_id) LEFT JOIN analytics.usage_event_ids ledger USING (event_id)
    )
    SELECT count(*) FILTER (WHERE what = 'acknowledged'),
           count(*) FILTER (WHERE what = 'acknowledged' AND times = 0),
           count(*) FILTER (WHERE times > 1),
           count(*) FILTER (WHERE what = 'rejected' AND (times > 0 OR in_ledger)),
           count(*) FILTER (WHERE (times > 0) <> in_ledger),
           count(*) FILTER (WHERE times > 0 AND what <> 'rejected' AND total_tokens IS DISTINCT FROM place),
           (SELECT count(*) FROM (
               SELECT batch FROM known WHERE what = 'unknown' GROUP BY batch HAVING min(times) <> max(times)) torn)
    FROM known
"""


@dataclass(frozen=True)
class Findings:
    """Numbers of events, and of batches."""

    acknowledged: int
    lost: int
    """Acknowledged, and not in the table."""
    twice: int
    """In the table more than once."""
    stored_though_rejected: int
    strays: int
    """In the table or in the ledger, but not in both."""
    changed: int
    """Stored under an id that was sent with something else."""
    torn_batches: int
    """Batches that were not acknowledged and are there in part."""

    @property
    def is_clean(self) -> bool:
        """Whether all is as the clients were told."""
        return not (
            self.lost or self.twice or self.stored_though_rejected or self.strays or self.changed or self.torn_batches
        )

    def add_to(self, figures: Figures) -> None:
        """Counts them among those of the run."""
        figures.acknowledged += self.acknowledged
        figures.lost += self.lost
        figures.twice += self.twice
        figures.stored_though_rejected += self.stored_though_rejected


def audit(url: DatabaseUrl, account: Account) -> Findings:
    """Compares all that was sent with the database. The user must be able to read events and ledger."""
    with psycopg.connect(url.reveal()) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE told (event_id uuid, batch integer, place integer, what text) ON COMMIT DROP")
        with cursor.copy("COPY told FROM STDIN") as copy:
            for sent in account.sent:
                for place, event_id in enumerate(account.event_ids(sent)):
                    copy.write_row((event_id, sent.number, place, _told(sent, place)))
        cursor.execute("ANALYZE told")
        row = cursor.execute(COUNTS).fetchone()
        assert row is not None
        return Findings(*row)


def _told(sent: Sent, place: int) -> str:
    if place == sent.bad:
        return "rejected"
    return "acknowledged" if sent.is_acknowledged else "unknown"
