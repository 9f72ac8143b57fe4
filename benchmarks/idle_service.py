"""The service with a writer that does nothing: what everything before the database costs.

`python -m benchmarks.idle_service serve` is `ingest serve`, but for its writer. All else is the service's own: HTTP, inflate,
decode, rows, groups of batches, verdicts. It needs a database to be ready, as the service does, and leaves it as it is.
"""

import sys
from collections.abc import Sequence
from unittest import mock

from ingest import app, cli
from ingest.events import Stream
from ingest.flow.batch import Rows, Stored
from ingest.store.writer import BatchWriter


class IdleWriter(BatchWriter):
    """Calls everything stored, and new."""

    async def store_group(
        self,
        stream: Stream,  # noqa: ARG002 - as the writer's
        group: Sequence[Rows],
        *,
        strict: bool,  # noqa: ARG002
    ) -> Sequence[Stored]:
        return [Stored({}) for _ in group]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `ingest`. Workers (--workers) would be processes of the service as it is: one process only."""
    with mock.patch.object(app, "BatchWriter", IdleWriter):
        return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
