"""The audit that the tests of faults rely on finds what it is there to find."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ingest.settings import DatabaseUrl
from tests import servers
from tests.faults.audit import audit
from tests.faults.load import Account, Sent

BAD = 3

Row = tuple[UUID, int]


def ledger_without_the_first(ledger: list[Row], table: list[Row]) -> None:
    del ledger[0]


def nothing_of_the_first(ledger: list[Row], table: list[Row]) -> None:
    del ledger[0], table[0]


def table_without_the_first(ledger: list[Row], table: list[Row]) -> None:
    del table[0]


def the_first_twice(ledger: list[Row], table: list[Row]) -> None:
    table.append(table[0])


def content_of_another(ledger: list[Row], table: list[Row]) -> None:
    table[0] = (table[0][0], 7)


CASES: dict[str, tuple[Callable[[list[Row], list[Row]], None] | None, Sent, dict[str, int]]] = {
    "as it should be": (None, Sent(1, None, is_acknowledged=True), {}),
    "lost": (nothing_of_the_first, Sent(1, None, is_acknowledged=True), {"lost": 1}),
    "lost, its id known": (table_without_the_first, Sent(1, None, is_acknowledged=True), {"lost": 1, "strays": 1}),
    "its id not known": (ledger_without_the_first, Sent(1, None, is_acknowledged=True), {"strays": 1}),
    "twice": (the_first_twice, Sent(1, None, is_acknowledged=True), {"twice": 1}),
    "changed": (content_of_another, Sent(1, None, is_acknowledged=True), {"changed": 1}),
    "rejected": (None, Sent(1, BAD, is_acknowledged=True), {"stored_though_rejected": 1}),
    "not acknowledged, there": (None, Sent(1, None), {}),
    "not acknowledged, there in part": (nothing_of_the_first, Sent(1, None), {"torn_batches": 1}),
}


@servers.ON_ONE
@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_found(database_url: DatabaseUrl, case: str) -> None:
    spoil, sent, expected = CASES[case]
    account = Account(seed=1, sent=[sent])
    ledger = [(event_id, place) for place, event_id in enumerate(account.event_ids(sent))]
    table = list(ledger)
    if spoil is not None:
        spoil(ledger, table)
    now = datetime.now(UTC)
    with psycopg.connect(database_url.reveal()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT analytics.ensure_partition('usage_events', %s, '1 day')", (now,))
        cursor.executemany(
            "INSERT INTO analytics.usage_event_ids (event_id, event_time, fingerprint) VALUES (%s, %s, 1)",
            [(event_id, now) for event_id, _ in ledger],
        )
        cursor.executemany(
            "INSERT INTO analytics.usage_events (event_id, event_time, user_id, team, service, provider, model, total_tokens)"
            " VALUES (%s, %s, 'u', 't', 's', 'p', 'm', %s)",
            [(event_id, now, place) for event_id, place in table],
        )

    found = audit(database_url, account)

    assert found.is_clean == (not expected)
    counts: dict[str, Any] = {name: count for name, count in asdict(found).items() if count and name != "acknowledged"}
    assert counts == expected
    told = sent.is_acknowledged * (len(account.event_ids(sent)) - (sent.bad is not None))
    assert found.acknowledged == told
