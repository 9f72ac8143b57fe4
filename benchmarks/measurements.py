"""What load generators measure: latencies, throughput and errors, after a warm-up, and their tables and plots.

Latency is told twice. From the moment a request was due, whether it could be sent then or not: that is what users of a
service wait, and leaving the waiting out is known as coordinated omission (Gil Tene; https://github.com/giltene/wrk2). And
from the moment it was sent, which is the service's own time. Percentiles are HdrHistogram's, to three digits
(https://github.com/HdrHistogram/HdrHistogram).
"""

from collections import Counter
from collections.abc import Iterator

from hdrh.histogram import HdrHistogram
from msgspec import Struct

from benchmarks.results import Axis, Column, Plot, Scalar, Series, Table

PERCENTILES = (50.0, 75.0, 90.0, 99.0, 99.9)

_MICROSECONDS = 1_000_000
_LATENCY_US_MAX = 3600 * _MICROSECONDS
_DIGITS = 3

_STEPS_EACH_NINE = 9


class Second(Struct):
    """What was acknowledged in one second. Latencies in ms, None where nothing was."""

    events: int = 0
    requests: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


class Latencies:
    """A histogram of durations, given in seconds and told in milliseconds."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, _LATENCY_US_MAX, _DIGITS)

    def record(self, seconds: float) -> None:
        self._histogram.record_value(min(max(round(seconds * _MICROSECONDS), 1), _LATENCY_US_MAX))

    def percentile_ms(self, percentile: float) -> float | None:
        """None where nothing was recorded; 100 is the longest."""
        if not self.count:
            return None
        if percentile == 100:
            return float(self._histogram.get_max_value()) / 1000
        return float(self._histogram.get_value_at_percentile(percentile)) / 1000

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def reset(self) -> None:
        """Forgets everything."""
        self._histogram.reset()


class Measurements:
    """Collects while a run goes on. All moments are seconds from its start.

    warmup_seconds: requests that were due (or, without a due time, sent) before that are not measured.
    """

    def __init__(self, warmup_seconds: float) -> None:
        self._warmup_seconds = warmup_seconds
        self.from_due = Latencies()
        self.service = Latencies()
        self.sent_late = Latencies()
        """By how much the generator itself sent too late, though a connection was free."""
        self.errors: Counter[str] = Counter()
        self.events = 0
        self.requests = 0
        self.duplicates = 0
        self.conflicts = 0
        self.rejected = 0
        self.sent_bytes = 0
        self.unsent = 0
        self._seconds: list[Second] = []
        self._second = Latencies()
        self._end: float | None = None

    def acknowledged(self, *, due: float | None, sent: float, done: float, verdict: "Counts") -> None:
        """A request was answered with 200."""
        begin = sent if due is None else due
        if begin >= self._warmup_seconds:
            self.from_due.record(done - begin)
            self.service.record(done - sent)
        second = self._second_at(done)
        if second is None:
            return
        self.events += verdict.accepted
        self.requests += 1
        self.duplicates += verdict.duplicates
        self.conflicts += verdict.conflicts
        self.rejected += verdict.rejected
        self.sent_bytes += verdict.sent_bytes
        second.events += verdict.accepted
        second.requests += 1
        self._second.record(done - begin)

    def failed(self, done: float, kind: str) -> None:
        """A request was refused, or its answer lost. The warm-up's are counted too: an error is never normal."""
        self.errors[kind] += 1
        second = self._second_at(done)
        if second is not None:
            second.errors += 1

    def left_unsent(self, due: float, end: float) -> None:
        """A request was due and no connection was free until the end: its latency is at least the time until then."""
        self.unsent += 1
        if due >= self._warmup_seconds:
            self.from_due.record(end - due)

    def end(self, moment: float) -> None:
        """No more requests are sent. What is answered later counts in the latencies, but not in the throughput."""
        self._close_second()
        self._end = moment

    @property
    def measured_seconds(self) -> float:
        """Of the throughput."""
        assert self._end is not None
        return max(self._end - self._warmup_seconds, 1e-9)

    @property
    def events_per_second(self) -> float:
        """Accepted ones, over the time that was measured."""
        return self.events / self.measured_seconds

    def note(self) -> str:
        """A few words on the last whole second, for a progress bar."""
        if len(self._seconds) < 2:
            return "warming up"
        last = self._seconds[-2]
        latency = "" if last.p99_ms is None else f", p99 {last.p99_ms:,.0f} ms"
        errors = self.errors.total()
        return f"{last.events:,} events/s{latency}, {errors:,} errors"

    def _second_at(self, done: float) -> Second | None:
        """The one in which a request was done; None outside of what is measured. Called in order of time."""
        if done < self._warmup_seconds or self._end is not None:
            return None
        place = int(done - self._warmup_seconds)
        while len(self._seconds) <= place:
            self._close_second()
            self._seconds.append(Second())
        return self._seconds[place]

    def _close_second(self) -> None:
        if self._seconds and self._second.count:
            last = self._seconds[-1]
            last.p50_ms = self._second.percentile_ms(50)
            last.p99_ms = self._second.percentile_ms(99)
            last.max_ms = self._second.percentile_ms(100)
        self._second.reset()

    # --- tables and plots -----------------------------------------------------------------------------------------------

    def throughput_table(self) -> Table:
        """What was acknowledged, in all and each second."""
        seconds = self.measured_seconds
        rows: list[list[Scalar]] = [
            ["events accepted", self.events, self.events / seconds],
            ["requests acknowledged", self.requests, self.requests / seconds],
            ["bytes in them, compressed", self.sent_bytes, self.sent_bytes / seconds],
            ["events that were duplicates", self.duplicates, self.duplicates / seconds],
            ["events in conflict", self.conflicts, self.conflicts / seconds],
            ["events rejected", self.rejected, self.rejected / seconds],
        ]
        return Table(
            f"Throughput, over {seconds:.1f} s", [Column("what"), Column("in all"), Column("each second", "1/s")], rows
        )

    def latency_table(self, *, open_loop: bool) -> Table:
        """Percentiles. Without due times there is only the service's own time."""
        columns = [Column("percentile"), *([Column("from when it was due", "ms")] * open_loop), Column("service time", "ms")]
        shown = [self.from_due, self.service] if open_loop else [self.service]
        rows = [
            [name, *(latencies.percentile_ms(percentile) for latencies in shown)]
            for name, percentile in [*((f"{p:g} %", p) for p in PERCENTILES), ("longest", 100.0)]
        ]
        return Table("Latency of acknowledged requests", columns, rows)

    def error_table(self) -> Table | None:
        """Errors by kind; None if there were none."""
        rows: list[list[Scalar]] = [[kind, count] for kind, count in self.errors.most_common()]
        if self.unsent:
            rows.append(["due, but no connection was free until the end", self.unsent])
        return Table("Errors", [Column("kind"), Column("requests")], rows) if rows else None

    def plots(self, *, open_loop: bool) -> list[Plot]:
        """Throughput over time, latency over time, percentiles."""
        # A second that was not measured in full would look like a dip.
        shown = self._seconds[: int(self.measured_seconds)] or self._seconds
        times = [float(k) for k in range(len(shown))]
        series = [Series("events accepted", times, [float(second.events) for second in shown])]
        plots = [Plot("Throughput over time", "line", Axis("time", "s"), Axis("events accepted", "1/s"), series)]
        if any(second.errors for second in shown):
            series = [Series("errors", times, [float(second.errors) for second in shown])]
            plots.append(Plot("Errors over time", "line", Axis("time", "s"), Axis("requests", "1/s"), series))
        plots.append(
            Plot(
                "Latency over time",
                "line",
                Axis("time", "s"),
                Axis("latency", "ms"),
                [
                    Series("50 %", times, [second.p50_ms for second in shown]),
                    Series("99 %", times, [second.p99_ms for second in shown]),
                    Series("longest", times, [second.max_ms for second in shown]),
                ],
            )
        )
        named = [("from when it was due", self.from_due), ("service time", self.service)][not open_loop :]
        lines = [
            Series(name, points, [latencies.percentile_ms(point) for point in points])
            for name, latencies in named
            if (points := list(_percentiles_up_to(latencies.count)))
        ]
        if lines:
            plots.append(Plot("Latency by percentile", "percentile", Axis("percentile", "%"), Axis("latency", "ms"), lines))
        return plots


class Counts(Struct, frozen=True, gc=False):
    """What an answer says of its events, and how many bytes they were sent as."""

    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    sent_bytes: int

    @property
    def stored(self) -> int:
        """Those that are stored now, whoever sent them first."""
        return self.accepted + self.duplicates


def _percentiles_up_to(count: int) -> Iterator[float]:
    """0, 10 … 90, 91 … 99, 99.1 …: as far as `count` values tell them apart."""
    below, step = 0.0, 10.0
    while count > 0:
        for k in range(_STEPS_EACH_NINE):
            percentile = round(below + k * step, 9)
            if percentile > 0 and (100 - percentile) / 100 * count < 1:
                return
            yield percentile
        below, step = below + _STEPS_EACH_NINE * step, step / 10
