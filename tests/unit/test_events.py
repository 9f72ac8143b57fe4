"""The window of times that are taken."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ingest.events import Window

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
WINDOW = Window.around(NOW, age_days_max=180, skew_seconds_max=300)
MICROSECOND = timedelta(microseconds=1)


def test_the_window_reaches_from_the_retention_to_the_skew() -> None:
    assert WINDOW.oldest == NOW - timedelta(days=180)
    assert WINDOW.newest == NOW + timedelta(seconds=300)


@pytest.mark.parametrize(
    ("events_from", "oldest"),
    [
        (None, NOW - timedelta(days=180)),
        (NOW - timedelta(days=200), NOW - timedelta(days=180)),
        (NOW - timedelta(days=100), NOW - timedelta(days=100)),
    ],
)
def test_the_window_begins_where_everything_is_still_known(events_from: datetime | None, oldest: datetime) -> None:
    assert Window.around(NOW, 180, 300, events_from).oldest == oldest


@pytest.mark.parametrize(
    ("times", "held"),
    [
        ([], True),
        ([NOW], True),
        ([WINDOW.oldest, WINDOW.newest], True),
        ([NOW, WINDOW.oldest - MICROSECOND], False),
        ([WINDOW.newest + MICROSECOND, NOW], False),
        ([NOW.astimezone(timezone(timedelta(hours=-12)))], True),
        ([datetime.min.replace(tzinfo=UTC)], False),
        ([datetime.max.replace(tzinfo=timezone(-timedelta(hours=23)))], False),
    ],
)
def test_times_are_held_only_if_all_lie_in_the_window(times: list[datetime], held: bool) -> None:
    assert WINDOW.holds_all(times) is held
