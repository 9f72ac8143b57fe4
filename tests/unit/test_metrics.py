"""The metrics by themselves: who may import them, and what their labels are."""

import errno
import os
import subprocess
import sys
import time

import prometheus_client.parser
import pytest

from ingest import metrics
from ingest.metrics import DatabaseFigures, Format, Ledger, PolicyRun

FIGURES = DatabaseFigures(
    "timescaledb",
    "17.2",
    "2.28.3",
    [PolicyRun("usage_events.retention", 3, True, 1.5e9), PolicyRun("usage_events.rollups", 0, False, None)],
    [Ledger("usage_events", 10, 8192)],
)

LABELS = {
    "endpoint",
    "status",
    "code",
    "stream",
    "verdict",
    "stage",
    "reason",
    "state",
    "worker",
    "policy",
    "version",
    "edition",
    "server_version",
    "timescaledb_version",
    "le",
}
"""None of them has a value that a client chose."""


def samples(figures: DatabaseFigures | None) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in prometheus_client.parser.text_string_to_metric_families(metrics.answer(figures, Format.TEXT).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_what_the_database_says_stands_beside_what_was_counted() -> None:
    found = samples(FIGURES)

    assert found["ingest_policy_failing"] == [
        ({"policy": "usage_events.retention"}, 1),
        ({"policy": "usage_events.rollups"}, 0),
    ]
    assert found["ingest_policy_failures_total"][0][1] == 3
    assert found["ingest_policy_last_run_timestamp_seconds"] == [({"policy": "usage_events.retention"}, 1.5e9)]
    assert found["ingest_ledger_bytes"] == [({"stream": "usage_events"}, 8192)]
    assert found["ingest_database_info"][0][0]["timescaledb_version"] == "2.28.3"
    assert "ingest_queue_rows" in found
    assert "ingest_policy_failing" not in samples(None)


def test_all_names_are_known_and_no_label_but_these_is_used() -> None:
    found = samples(FIGURES)

    assert found.keys() <= metrics.names()
    assert {label for series in found.values() for labels, _ in series for label in labels} <= LABELS


@pytest.mark.parametrize("version", ["; version=1.0.0", "", ";version=9.9", ";version=abc", ";version=\N{DEGREE SIGN}"])
def test_openmetrics_is_given_to_who_asks_for_it_in_one_version_whatever_is_asked_for(version: str) -> None:
    written = Format.wanted(f"application/openmetrics-text{version};q=0.5, text/plain;version=0.0.4;q=0.2")

    assert written.media_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert metrics.answer(None, written).endswith(b"# EOF\n")


def test_text_is_given_to_who_asks_for_nothing_else() -> None:
    assert {Format.wanted(accept) for accept in ("", "*/*", "text/plain; version=abc")} == {Format.TEXT}


def test_a_process_without_a_descriptor_left_tells_the_rest_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: str) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "listdir", full)

    metrics.note_process()

    [(labels, started)] = samples(None)["ingest_worker_start_time_seconds"]
    assert labels == {"worker": "1"}
    assert started == pytest.approx(time.time(), abs=3600)


def test_the_processes_that_decode_have_no_metrics() -> None:
    """They would write into the files of the worker whose children they are."""
    program = "import sys, ingest.web.decoder_process, ingest.store.rows; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
