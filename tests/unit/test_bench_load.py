"""The load generator's sending and measuring, against a service that does as it is told."""

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from benchmarks.bodies import Bodies
from benchmarks.http_client import Answer, ConnectFailed, ConnectionLost
from benchmarks.measurements import Counts, Latencies, Measurements
from benchmarks.sender import PATH, RETRIES_MAX, Sender, error_kind, retry_after_seconds
from benchmarks.workload import Closed, Steady, Workload


@pytest.fixture(scope="module")
def bodies() -> Bodies:
    return Bodies(5, 10)


def verdict(accepted: int = 10, duplicates: int = 0, conflicts: int = 0, rejected: int = 0) -> Answer:
    counts = {"accepted": accepted, "duplicates": duplicates, "conflicts": conflicts, "rejected": rejected}
    return Answer(200, {f"x-ingest-{name}": str(count) for name, count in counts.items()}, b"{}")


def refusal(status: int, code: str, **headers: str) -> Answer:
    return Answer(status, headers, msgspec.json.encode({"status": status, "code": code}))


class Service:
    """Answers with `answers` in turn, then with the last of them. An error among them is raised, an event is waited for."""

    def __init__(self, *answers: Answer | Exception | asyncio.Event) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.at_once = 0
        self.at_once_max = 0
        self.seen = asyncio.Event()
        """Set when a request came."""

    def connections(self, count: int) -> list["Service"]:
        return [self] * count

    async def connect(self) -> None:
        pass

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        assert path == PATH
        self.bodies.append(body)
        self.headers.append(headers)
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        self.seen.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = verdict()
        await asyncio.sleep(0.001)
        self.at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


async def send(
    service: Service, workload: Workload, seconds: float, *, connections: int = 1, warmup: float = 0.0, retries: bool = False
) -> tuple[Sender, Measurements]:
    measurements = Measurements(warmup)
    sending = Sender(service.connections(connections), workload, measurements, headers={"X-Key": "k"}, retries=retries)
    await sending.run(seconds)
    return sending, measurements


async def end_stall(service: Service, stall: asyncio.Event, seconds: float) -> None:
    """Ends a stall so long after the first request met it."""
    await service.seen.wait()
    await asyncio.sleep(seconds)
    stall.set()


# --- sending ------------------------------------------------------------------------------------------------------------


async def test_every_request_is_sent_once_and_remembered(bodies):
    service = Service(verdict())
    steady = Steady(bodies, events_per_second=1000, seconds=0.2)
    sending, measurements = await send(service, steady, 1, connections=3)
    assert len(service.bodies) == len(set(service.bodies)) == 20
    assert service.headers[0] == {"Content-Type": "application/json", "Content-Encoding": "gzip", "X-Key": "k"}
    assert sorted(receipt.number for receipt in sending.acknowledged) == list(range(20))
    # What was remembered makes the same bodies again.
    again = {steady.body(receipt.number, receipt.now).content for receipt in sending.acknowledged}
    assert again == set(service.bodies)
    assert measurements.from_due.count == measurements.service.count == 20
    assert sending.unacknowledged == []


async def test_closed_keeps_all_connections_busy_and_no_more(bodies):
    service = Service(verdict())
    sending, measurements = await send(service, Closed(bodies), 0.2, connections=3)
    assert service.at_once_max == 3
    assert len(sending.acknowledged) == len(service.bodies) > 3
    assert measurements.events == 10 * measurements.requests > 0


async def test_a_stall_shows_in_every_request_that_was_due_meanwhile(bodies):
    """Coordinated omission: only one request met the stall, but all that were due meanwhile had to wait."""
    stall = asyncio.Event()
    service = Service(stall, verdict())
    ending = asyncio.create_task(end_stall(service, stall, 0.4))
    _, measurements = await send(service, Steady(bodies, events_per_second=500, seconds=0.8), 1.5)
    await ending
    assert measurements.from_due.count == 40
    waited = [measurements.from_due.percentile_ms(percentile) or 0 for percentile in (60, 75)]
    # The 20 requests that were due in the first 0.4 s waited for the rest of it: the median of them 200 ms, and 50 % of all
    # lie above the shortest of these.
    assert waited[0] > 50
    assert waited[1] > 150


async def test_what_could_not_be_sent_counts_with_the_time_it_had_waited(bodies):
    stall = asyncio.Event()
    service = Service(stall)
    ending = asyncio.create_task(end_stall(service, stall, 0.6))
    sending, measurements = await send(service, Steady(bodies, events_per_second=500, seconds=0.3), 0.3)
    await ending
    assert len(service.bodies) == len(sending.acknowledged) == 1
    assert measurements.unsent == 14
    assert measurements.from_due.count == 15
    assert measurements.service.count == 1
    table = measurements.error_table()
    assert table is not None
    assert table.rows == [["due, but no connection was free until the end", 14]]


async def test_stop_waits_for_what_is_on_its_way(bodies):
    stall = asyncio.Event()
    service = Service(stall)
    measurements = Measurements(0)
    sending = Sender(service.connections(1), Closed(bodies), measurements)
    running = asyncio.create_task(sending.run(3600))
    await service.seen.wait()
    sending.stop()
    await asyncio.sleep(0.01)
    assert not running.done()
    stall.set()
    await running
    assert len(sending.acknowledged) == 1
    # Answered after the end: in the latencies, but not in the throughput.
    assert (measurements.service.count, measurements.requests) == (1, 0)


async def test_refused_and_lost_requests_are_not_acknowledged(bodies):
    service = Service(refusal(503, "queue_full"), ConnectionLost("gone"), refusal(413, "limit_exceeded"), verdict())
    sending, measurements = await send(service, Steady(bodies, 1000, 0.06), 0.6)
    assert measurements.errors == {"503 queue_full": 1, "reset": 1, "413 limit_exceeded": 1}
    assert [receipt.number for receipt in sending.unacknowledged] == [0, 1, 2]
    assert [receipt.number for receipt in sending.acknowledged] == [3, 4, 5]


async def test_a_service_that_is_gone_is_not_asked_all_the_time(bodies):
    sending, measurements = await send(Service(ConnectFailed("refused")), Closed(bodies), 0.25)
    assert 1 <= measurements.errors["connect"] <= 3
    assert sending.acknowledged == []


async def test_a_200_without_a_verdict_acknowledges_nothing(bodies):
    sending, measurements = await send(Service(Answer(200, {}, b"hello")), Steady(bodies, 1000, 0.01), 0.1)
    assert measurements.errors == {"200": 1}
    assert sending.acknowledged == []


async def test_retries_send_the_same_body_until_it_is_acknowledged(bodies):
    busy = refusal(503, "queue_full", **{"retry-after": "0"})
    service = Service(busy, busy, verdict(4, 6))
    sending, measurements = await send(service, Steady(bodies, 1000, 0.01), 0.5, retries=True)
    assert len(service.bodies) == 3
    assert len(set(service.bodies)) == 1
    assert measurements.errors == {"503 queue_full": 2}
    assert [receipt.stored for receipt in sending.acknowledged] == [10]
    assert (measurements.events, measurements.duplicates) == (4, 6)


async def test_retries_have_an_end(bodies):
    service = Service(refusal(503, "queue_full", **{"retry-after": "0"}))
    sending, _ = await send(service, Steady(bodies, 1000, 0.01), 0.5, retries=True)
    assert len(service.bodies) == RETRIES_MAX + 1
    assert len(sending.unacknowledged) == 1


async def test_what_can_not_become_better_is_not_sent_again(bodies):
    service = Service(refusal(422, "batch_rejected"))
    await send(service, Steady(bodies, 1000, 0.01), 0.2, retries=True)
    assert len(service.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "seconds"),
    [
        (refusal(503, "queue_full", **{"retry-after": "2"}), "503 queue_full", 2.0),
        (refusal(503, "draining"), "503 draining", 1.0),
        (refusal(429, "rate", **{"retry-after": "99999"}), "429 rate", 30.0),
        (refusal(500, "internal_error"), "500 internal_error", None),
        (Answer(502, {}, b"<html>"), "502", None),
        (Answer(504, {}, b"[]"), "504", None),
    ],
)
def test_kinds_of_errors(answer, kind, seconds):
    assert error_kind(answer) == kind
    assert retry_after_seconds(answer) == seconds


# --- measuring ----------------------------------------------------------------------------------------------------------


def ten() -> Counts:
    return Counts(accepted=9, duplicates=1, conflicts=0, rejected=0, sent_bytes=100)


def test_the_warm_up_is_not_measured():
    measurements = Measurements(2)
    measurements.acknowledged(due=1.5, sent=1.6, done=1.9, verdict=ten())
    measurements.acknowledged(due=1.9, sent=1.9, done=2.1, verdict=ten())
    measurements.acknowledged(due=2.0, sent=2.1, done=2.2, verdict=ten())
    measurements.end(4)
    assert measurements.from_due.count == measurements.service.count == 1
    assert measurements.from_due.percentile_ms(100) == pytest.approx(200, rel=0.001)
    assert measurements.service.percentile_ms(100) == pytest.approx(100, rel=0.001)
    assert (measurements.requests, measurements.events, measurements.duplicates) == (2, 18, 2)
    assert measurements.events_per_second == 9


def test_seconds_are_kept_apart():
    measurements = Measurements(0)
    for done in (0.1, 0.2, 2.5):
        measurements.acknowledged(due=None, sent=done - 0.05, done=done, verdict=ten())
    measurements.failed(2.6, "timeout")
    measurements.end(3)
    throughput, errors, latency, percentiles = measurements.plots(open_loop=False)
    assert throughput.series[0].y == [18, 0, 9]
    assert errors.series[0].y == [0, 0, 1]
    assert [series.name for series in latency.series] == ["50 %", "99 %", "longest"]
    assert [None if value is None else round(value) for value in latency.series[2].y] == [50, None, 50]
    assert [series.name for series in percentiles.series] == ["service time"]


def test_tables():
    measurements = Measurements(0)
    for k in range(1000):
        measurements.acknowledged(due=k / 1000, sent=k / 1000, done=k / 1000 + (k + 1) / 1000, verdict=ten())
    measurements.end(2)
    rows = {row[0]: list(row[1:]) for row in measurements.latency_table(open_loop=True).rows}
    assert list(rows) == ["50 %", "75 %", "90 %", "99 %", "99.9 %", "longest"]
    assert rows["50 %"] == pytest.approx([500, 500], rel=0.002)
    assert rows["99.9 %"] == pytest.approx([999, 999], rel=0.002)
    assert rows["longest"] == pytest.approx([1000, 1000], rel=0.002)
    assert len(measurements.latency_table(open_loop=False).columns) == 2
    assert measurements.throughput_table().rows[0] == ["events accepted", 9000, 4500]
    assert measurements.error_table() is None


def test_percentiles_are_drawn_as_far_as_there_are_values_to_tell_them_apart():
    measurements = Measurements(0)
    for _ in range(100):
        measurements.acknowledged(due=None, sent=0, done=0.5, verdict=ten())
    measurements.end(1)
    points = measurements.plots(open_loop=False)[-1].series[0].x
    assert points[:3] == [0, 10, 20]
    assert points[-1] == 99
    assert points == sorted(points)


def test_nothing_measured():
    measurements = Measurements(0)
    measurements.end(1)
    assert measurements.events_per_second == 0
    assert [row[1] for row in measurements.latency_table(open_loop=False).rows] == [None] * 6
    assert [plot.title for plot in measurements.plots(open_loop=True)] == ["Throughput over time", "Latency over time"]


def test_a_latency_beyond_all_bounds_is_kept_within_them():
    latencies = Latencies()
    latencies.record(0.0)
    latencies.record(1e9)
    assert latencies.count == 2
    assert latencies.percentile_ms(100) == pytest.approx(3_600_000, rel=0.001)
    latencies.reset()
    assert latencies.percentile_ms(50) is None
