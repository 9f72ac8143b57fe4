"""How far a file is, where there is no terminal."""

import pytest

from ingest.send import progress


def test_lines_tell_the_rate_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0])
    meter = progress._Lines("events.ndjson", 4000, clock=lambda: next(times))

    for read_bytes in (1000, 2000, 2500, 3000):
        meter.advance(1000, read_bytes)

    # What was read before the first answer may have been acknowledged by an earlier run, and does not count for the rate.
    assert capsys.readouterr().err.splitlines() == [
        "events.ndjson: 2,000 events, 200/s, 50 %, 20 s left",
        "events.ndjson: 4,000 events, 200/s, 75 %, 10 s left",
    ]


def test_quiet_is_quiet_and_warnings_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.meter("x", 10, is_quiet=True) as meter:
        meter.advance(5, 10)
        meter.say("trying again")

    assert capsys.readouterr().err == "trying again\n"
