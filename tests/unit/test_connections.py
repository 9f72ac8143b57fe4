"""Who is waited for for too long goes, and so does whoever has been waited for longest when its place is needed."""

import asyncio

import pytest

from ingest.web.connections import HEAD_SECONDS, LEAVING_SECONDS, WRITE_SECONDS, Connections, Line


class Connection(asyncio.Protocol):
    """Notes what is done to it."""

    def __init__(self, connections: Connections) -> None:
        self.done: list[str] = []
        self._connections = connections
        connections.connections.add(self)  # type: ignore[arg-type]  # uvicorn knows its own kinds only

    def give_up(self) -> None:
        self.done.append("give up")

    def drop(self) -> None:
        self.done.append("drop")


@pytest.fixture
def connections() -> Connections:
    return Connections(connections_max=3)


def test_those_are_late_whose_time_is_over_the_first_ones_first(connections: Connections) -> None:
    line = Line(seconds=10)
    one, two, three = (Connection(connections) for _ in range(3))
    line.enter(one, 1)
    line.enter(two, 2)
    line.enter(three, 3)
    line.enter(one, 4)  # again, so that it is the last

    assert line.late(11.9) == []
    assert line.late(13) == [two, three]
    assert (line.late(14), len(line)) == ([one], 0)


def test_who_left_the_line_is_not_late(connections: Connections) -> None:
    line = Line(seconds=10)
    one = Connection(connections)
    line.enter(one, 1)
    line.leave(one)
    line.leave(one)

    assert line.late(100) == []
    assert line.first(100) is None


def test_each_line_has_its_time(connections: Connections) -> None:
    waiting, receiving, stalled, leaving = (Connection(connections) for _ in range(4))
    connections.waiting.enter(waiting, 0)
    connections.receiving.enter(receiving, 0)
    connections.stalled.enter(stalled, 0)
    connections.leaving.enter(leaving, 0)

    seen = []
    for now in (0, LEAVING_SECONDS, HEAD_SECONDS, WRITE_SECONDS, 1_000_000):
        connections.sweep(now)
        seen.append([list(one.done) for one in (leaving, waiting, stalled, receiving)])

    assert seen == [
        [[], [], [], []],
        [["drop"], [], [], []],
        [["drop"], ["give up"], [], []],
        [["drop"], ["give up"], ["drop"], []],
        [["drop"], ["give up"], ["drop"], []],
    ]


def test_while_there_is_room_nobody_goes(connections: Connections) -> None:
    one, _, _ = (Connection(connections) for _ in range(3))
    connections.waiting.enter(one, 0)

    assert connections.make_room(100)
    assert one.done == []


def test_who_goes_for_a_new_one(connections: Connections) -> None:
    receiving, waiting, longer, leaving = (Connection(connections) for _ in range(4))
    connections.receiving.enter(receiving, 0)
    connections.waiting.enter(longer, 1)
    connections.waiting.enter(waiting, 2)
    connections.leaving.enter(leaving, 9)

    gone = []
    for _ in range(4):
        assert connections.make_room(10)
        gone += [one for one in (receiving, waiting, longer, leaving) if one.done and one not in gone]
        Connection(connections)

    assert gone == [leaving, longer, waiting, receiving]
    assert all(one.done == ["drop"] for one in gone)


def test_a_body_that_has_just_begun_stays_and_the_new_one_goes(connections: Connections) -> None:
    bodies = [Connection(connections) for _ in range(3)]
    for body in bodies:
        connections.receiving.enter(body, 9.5)
    Connection(connections)

    assert not connections.make_room(10)
    assert connections.make_room(11)
    assert [body.done for body in bodies] == [["drop"], [], []]
