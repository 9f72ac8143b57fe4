"""What is kept of a file: nothing is sent twice, no rejected item lost or doubled, and no other file taken for this one."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ingest import errors
from ingest.client import Counts, ItemError, Outcome
from ingest.send.journal import REJECTED_SUFFIX, STATE_SUFFIX, Journal, State
from ingest.send.source import Identity, Source

BEGUN = State(url="http://service.test", stream="usage-events", format="lines", identity=Identity(10, 20, "ab"))
STORED = Outcome(received=2, accepted=2)
REJECTED = Outcome(received=2, accepted=1, rejected=1, errors=[ItemError(index=1, code="invalid_json", message="No.")])


def begun(**changes: Any) -> State:
    return replace(BEGUN, acknowledged=[], counts=Counts(), **changes)


def acknowledge(journal: Journal, first: int, outcome: Outcome) -> None:
    journal.acknowledge(first, [b"{}", b"bad"], [1, 2], outcome)


def rejected_of(base: Path) -> list[int]:
    text = base.with_name(base.name + REJECTED_SUFFIX).read_text()
    return [json.loads(line)["index"] for line in text.splitlines()]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "events.ndjson"


def test_it_is_gone_on_with_where_it_ended(base: Path) -> None:
    journal = Journal(base, begun())
    acknowledge(journal, 0, REJECTED)
    acknowledge(journal, 4, STORED)
    journal.close()

    again = Journal(base, begun())
    acknowledge(again, 2, REJECTED)
    again.close()

    assert (again.resumed_items, again.done.pairs) == (4, [(0, 6)])
    assert (again.counts.received, again.counts.rejected) == (6, 2)
    assert rejected_of(base) == [1, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "json"}, "it was read as NDJSON"),
        ({"url": "http://another.test"}, "it was sent to http://service.test"),
        ({"stream": "message-archives"}, "it was sent as usage-events"),
        ({"identity": Identity(11, 20, "ab")}, "the file was changed since"),
    ],
)
def test_another_command_is_refused_only_if_something_is_acknowledged(
    base: Path, changes: dict[str, Any], words: str
) -> None:
    Journal(base, begun()).close()
    journal = Journal(base, begun(**changes))
    journal.close()
    journal = Journal(base, begun())
    acknowledge(journal, 0, STORED)
    journal.close()

    with pytest.raises(errors.InputRefused, match=f"{words}.*--restart"):
        Journal(base, begun(**changes))
    assert Journal(base, begun(**changes), restart=True).resumed_items == 0


@pytest.mark.parametrize("pairs", [[(0, 99_999)], [(2, 0)], [(-5, -3)], [(2, 3), (0, 1)], [(0, 2), (1, 2)], [(0, 1)], []])
def test_a_state_that_makes_no_sense_is_refused(base: Path, pairs: list[tuple[int, int]]) -> None:
    state = replace(BEGUN, acknowledged=pairs, counts=Counts(received=2, accepted=2))
    base.with_name(base.name + STATE_SUFFIX).write_bytes(msgspec.json.encode(state))

    with pytest.raises(errors.InputRefused, match=r"can't be understood.*--restart"):
        Journal(base, begun())


def test_a_full_disk_loses_and_doubles_nothing(base: Path) -> None:
    journal = Journal(base, begun())
    acknowledge(journal, 0, REJECTED)
    journal.close()
    journal = Journal(base, begun())
    file = journal._rejected
    assert file is not None
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        journal._rejected = full
        with pytest.raises(errors.InputRefused, match="can't be written: No space"):
            acknowledge(journal, 2, REJECTED)
        journal._rejected = file
        with pytest.raises(errors.InputRefused, match="can't be written: No space"):  # though there were room again
            acknowledge(journal, 4, STORED)
    journal.close()
    assert journal.counts.received == 6  # so much was stored

    again = Journal(base, begun())
    assert again.done.pairs == [(0, 2)]
    acknowledge(again, 2, REJECTED)
    again.close()
    assert rejected_of(base) == [1, 3]


def test_inputs_without_a_state_never_share_a_file_of_rejected_items(tmp_path: Path) -> None:
    base = tmp_path / "stdin"
    first, second, third = (Journal(base, None) for _ in range(3))
    acknowledge(first, 0, REJECTED)
    acknowledge(second, 2, REJECTED)
    for journal in (first, second, third):
        journal.close()

    assert [journal.rejected_path.name for journal in (first, second)] == [
        f"stdin{REJECTED_SUFFIX}",
        f"stdin.2{REJECTED_SUFFIX}",
    ]
    assert (rejected_of(base), rejected_of(tmp_path / "stdin.2")) == ([1], [3])
    assert len(list(tmp_path.iterdir())) == 2

    later = Journal(base, None)  # replaces what nobody writes any more
    acknowledge(later, 6, REJECTED)
    later.close()
    assert rejected_of(base) == [7]


def test_a_folder_that_can_not_be_written_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(errors.InputRefused, match="can't be written"):
        Journal(tmp_path / "nowhere" / "stdin", None)


def test_a_file_that_was_changed_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"{}\n{}\n")
    source = Source(str(path))
    source.check_unchanged()
    path.write_bytes(b"{}\n")

    with pytest.raises(errors.InputRefused, match="was changed while it was sent"):
        source.check_unchanged()
    source.close()
