"""Under load for long, with one random fault after the other."""

import dataclasses
import os
import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.faults import cluster as clusters
from tests.faults.audit import audit
from tests.faults.injections import FAULTS, Fault
from tests.faults.load import Load
from tests.faults.scene import READY_SECONDS_MAX, Scene, Service, service_on
from tests.reliability import Figures
from tests.servers import Unavailable

RESULTS = Path("benchmark-results")
"""Where the figures of a soak go, beside those of benchmarks."""

MINUTES = float(os.environ.get("SOAK_MINUTES", "20"))
FAULT_EVERY_SECONDS = 15
SAMPLE_SECONDS = 1.0
WARM_UP_SECONDS = 60
RESIDENT_BYTES_MAX = 160 * 2**20
GROWTH_BYTES_PER_MINUTE_MAX = 2**20
SEGMENT_SECONDS_MIN = 180
"""Of a process that lived for less, nothing is said."""
SEGMENTS_MINUTES_MIN = 20
"""A soak of so long has one that lived for longer, whenever it is killed: each fault comes once in a round of them."""


class Memory:
    """What the service's process holds, once a second; a process that was started anew is another one."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.samples: dict[int, list[tuple[float, int]]] = {}
        """By process: seconds since it was first seen, and bytes."""

    @contextmanager
    def watched(self) -> Iterator["Memory"]:
        stop = threading.Event()

        def watch() -> None:
            first: dict[int, float] = {}
            while not stop.wait(SAMPLE_SECONDS):
                try:
                    pid, resident_bytes = self._service.pid, self._service.resident_bytes()
                except OSError:  # it was killed
                    continue
                age = time.monotonic() - first.setdefault(pid, time.monotonic())
                self.samples.setdefault(pid, []).append((age, resident_bytes))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def peak(self) -> int:
        """The most that any of them held."""
        return max(held for samples in self.samples.values() for _, held in samples)

    def growth_per_minute(self) -> list[float]:
        """The slope in bytes of each process that lived for SEGMENT_SECONDS_MIN, without its first minute."""
        warm = [[one for one in samples if one[0] > WARM_UP_SECONDS] for samples in self.samples.values()]
        long = [samples for samples in warm if samples and samples[-1][0] > SEGMENT_SECONDS_MIN]
        return [60 * statistics.linear_regression(*zip(*samples, strict=True)).slope for samples in long]


@pytest.mark.long
@pytest.mark.reliability
@pytest.mark.timeout(MINUTES * 60 + 900)
@pytest.mark.parametrize("name", list(clusters.INSTALLATIONS))
def test_nothing_is_lost_with_a_fault_every_15_seconds(name: str, tmp_path: Path, figures: Figures) -> None:
    seed = random.SystemRandom().getrandbits(24)
    chosen = random.Random(seed)
    ready_seconds: list[float] = []
    try:
        started = clusters.started(name)
        with started as cluster, service_on(cluster, tmp_path) as (proxy, service):
            load = Load(service.port, seed)
            scene = Scene(cluster, proxy, service, load)
            until = time.monotonic() + MINUTES * 60
            with Memory(service).watched() as memory, load.running():
                load.await_acknowledgement(READY_SECONDS_MAX)
                coming: list[Fault] = []
                while time.monotonic() < until:
                    due = time.monotonic() + FAULT_EVERY_SECONDS
                    coming = coming or chosen.sample(FAULTS, len(FAULTS))
                    fault = coming.pop()
                    fault.inject(scene, fault.seconds)
                    ready_seconds.append(scene.recover())
                    figures.faults[fault.name] += 1
                    time.sleep(max(0.0, due - time.monotonic()))

            found = audit(cluster.url, load.account)
            figures.databases.add(cluster.describe())
    except Unavailable as reason:
        pytest.skip(str(reason))
    found.add_to(figures)
    mib = 2**20
    summary = {
        "database": name,
        "seed": seed,
        "minutes": MINUTES,
        "faults": len(ready_seconds),
        "found": dataclasses.asdict(found),
        "answers": load.account.statuses,
        "ready_seconds": {"median": statistics.median(ready_seconds), "max": max(ready_seconds)},
        "memory_mib": {
            "peak": memory.peak() / mib,
            "growth_per_minute": [slope / mib for slope in memory.growth_per_minute()],
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"soak-{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary)))
    assert found.is_clean, found
    assert load.account.surprises == []
    assert memory.peak() < RESIDENT_BYTES_MAX
    slopes = memory.growth_per_minute()
    assert slopes or MINUTES < SEGMENTS_MINUTES_MIN
    assert all(slope < GROWTH_BYTES_PER_MINUTE_MAX for slope in slopes)
