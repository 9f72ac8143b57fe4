"""Whatever fails: every acknowledged event is stored exactly once, none is that was rejected, and recovery needs no human."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from tests.faults import cluster as clusters
from tests.faults.audit import audit
from tests.faults.cluster import Cluster
from tests.faults.injections import ALL_FORGOTTEN, CLOCK_STEPPED_BACK, DISK_FULL, FAULTS, Fault
from tests.faults.load import Account, Load
from tests.faults.proxy import Damage, Proxy
from tests.faults.scene import SETTINGS, Scene, Service, service_on, with_clock
from tests.reliability import Figures
from tests.samples import wire_event
from tests.servers import Unavailable, connected, query
from tests.service import REQUESTS

pytestmark = pytest.mark.reliability

STEADY_SECONDS_MAX = 10
STEADY_SECONDS = 0.5

_seeds = count(1)


@contextmanager
def _cluster(name: str, *, small_disk: bool = False) -> Iterator[Cluster]:
    with ExitStack() as stack:
        try:
            started = stack.enter_context(clusters.started(name, small_disk=small_disk))
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield started


@pytest.fixture(scope="module", params=list(clusters.INSTALLATIONS))
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster on each installation that can be had here, for all tests of this module."""
    with _cluster(request.param) as started:
        yield started


@pytest.fixture(scope="module")
def serving(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Service]]:
    """The service on the cluster, which outlives the faults of the module, unless it is killed itself."""
    with service_on(cluster, tmp_path_factory.mktemp("service")) as parts:
        yield parts


def play(cluster: Cluster, parts: tuple[Proxy, Service], fault: Fault, figures: Figures, *, is_long: bool) -> None:
    """Injects a fault under load, and accounts for every event."""
    proxy, service = parts
    load = Load(service.port, next(_seeds))
    scene = Scene(cluster, proxy, service, load)
    with load.running():
        load.await_acknowledgement(STEADY_SECONDS_MAX)
        time.sleep(STEADY_SECONDS)
        fault.inject(scene, (fault.long_seconds or fault.seconds) if is_long else fault.seconds)
        scene.recover()
        time.sleep(STEADY_SECONDS)
    settle(cluster, load.account, fault.name, figures)


def settle(cluster: Cluster, account: Account, fault: str, figures: Figures) -> None:
    """Audits what was sent under a fault, and counts it."""
    found = audit(cluster.url, account)
    figures.faults[fault] += 1
    found.add_to(figures)
    figures.databases.add(cluster.describe())
    assert found.acknowledged > 0
    assert found.is_clean, found
    assert account.surprises == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_or_doubled(
    cluster: Cluster, serving: tuple[Proxy, Service], fault: Fault, figures: Figures, is_long: bool
) -> None:
    play(cluster, serving, fault, figures, is_long=is_long)


@pytest.mark.parametrize("name", list(clusters.INSTALLATIONS))
def test_nothing_is_lost_where_the_disk_is_full(name: str, tmp_path: Path, figures: Figures, is_long: bool) -> None:
    with _cluster(name, small_disk=True) as cluster, service_on(cluster, tmp_path) as parts:
        play(cluster, parts, DISK_FULL, figures, is_long=is_long)

        assert re.search("No space left on device|could not extend file", cluster.log())
        assert "Free disk space" in (tmp_path / "service.log").read_text()


def test_nothing_is_lost_where_the_clock_goes_back(cluster: Cluster, tmp_path: Path, figures: Figures, is_long: bool) -> None:
    try:
        settings = with_clock(tmp_path)
    except Unavailable as reason:
        pytest.skip(str(reason))
    # The events are an hour ahead of that clock, and are not refused for it.
    with service_on(cluster, tmp_path, MAX_CLOCK_SKEW_SECONDS="7200", **settings) as parts:
        play(cluster, parts, CLOCK_STEPPED_BACK, figures, is_long=is_long)


def test_writers_that_wait_for_what_is_lost_hold_up_nobody_after_it(
    cluster: Cluster, tmp_path: Path, figures: Figures, is_long: bool
) -> None:
    # Their statements may take longer than the service may take to be ready.
    with service_on(cluster, tmp_path, DB_TIMEOUT_SECONDS="30", QUEUE_TIMEOUT_SECONDS="5") as parts:
        play(cluster, parts, ALL_FORGOTTEN, figures, is_long=is_long)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_under_load_finishes_what_was_taken(cluster: Cluster, tmp_path: Path, figures: Figures, workers: int) -> None:
    with service_on(cluster, tmp_path, "--workers", str(workers)) as (_, service):
        load = Load(service.port, next(_seeds))
        with load.running():
            load.await_acknowledgement(STEADY_SECONDS_MAX)
            time.sleep(STEADY_SECONDS)

            status, seconds = service.terminate()

            answered = Counter(load.account.statuses)
            service.start()
            load.await_acknowledgement(STEADY_SECONDS_MAX)
        assert (status, seconds < int(SETTINGS["SHUTDOWN_SECONDS"])) == (0, True)
        # Who came too late found no server, or a connection that was closed.
        too_late = {"ConnectionRefusedError", "RemoteDisconnected", "ConnectionResetError", "BrokenPipeError"}
        assert answered.keys() <= {"200", "503 draining", *too_late}
        settle(cluster, load.account, f"SIGTERM under load, {workers} {'worker' if workers == 1 else 'workers'}", figures)


def test_a_stop_while_the_database_hangs_is_in_time(cluster: Cluster, tmp_path: Path, figures: Figures) -> None:
    with service_on(cluster, tmp_path) as (proxy, service):
        load = Load(service.port, next(_seeds))
        with load.running():
            load.await_acknowledgement(STEADY_SECONDS_MAX)
            proxy.strike_all(Damage.BLACKHOLED)
            time.sleep(STEADY_SECONDS)

            status, seconds = service.terminate()

            proxy.heal()
            service.start()
            load.await_acknowledgement(STEADY_SECONDS_MAX)
        assert (status, seconds < int(SETTINGS["SHUTDOWN_SECONDS"])) == (0, True)
        settle(cluster, load.account, "SIGTERM while all connections are blackholed", figures)


def test_a_deadlock_costs_nothing(cluster: Cluster, serving: tuple[Proxy, Service], figures: Figures) -> None:
    _, service = serving
    first, last = sorted(str(uuid4()) for _ in range(2))
    events = [wire_event(event_id=event_id) for event_id in (first, last)]
    insert = "INSERT INTO analytics.usage_event_ids VALUES (%s, now(), 1)"
    with connected(cluster.url) as dba, ThreadPoolExecutor() as pool:
        dba.execute("SET deadlock_timeout = '60s'")  # so that it is the service that finds out, and is the one to go
        dba.execute(insert, (last,))
        asked = pool.submit(httpx.post, f"http://127.0.0.1:{service.port}{REQUESTS}", json=events, timeout=30)
        while not query(cluster.url, "SELECT 1 FROM pg_locks WHERE NOT granted"):
            time.sleep(0.01)

        dba.execute(insert, (first,))  # waits for the service, which waits for us: one of the two is sent home
        dba.rollback()

        answer = asked.result()
    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)
    assert "deadlock detected" in cluster.log()
    figures.faults["deadlock"] += 1


def test_of_clients_that_send_the_same_at_once_one_is_first(
    cluster: Cluster, serving: tuple[Proxy, Service], figures: Figures, is_long: bool
) -> None:
    _, service = serving
    clients, seconds = 8, 60 if is_long else 3
    together = threading.Barrier(clients)
    batches: list[list[dict[str, object]]] = []
    stop = time.monotonic() + seconds

    def send(number: int) -> list[tuple[int, int]]:
        told: list[tuple[int, int]] = []
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
            while True:
                if number == 0:
                    batches.append([wire_event() for _ in range(50)] if time.monotonic() < stop else [])
                together.wait()
                batch = batches[-1]
                if not batch:
                    return told
                answer = client.post(REQUESTS, json=batch)
                while answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
                    answer = client.post(REQUESTS, json=batch)
                told.append((answer.json()["accepted"], answer.json()["duplicates"]))
                together.wait()

    with ThreadPoolExecutor(clients) as pool:
        told = list(pool.map(send, range(clients)))

    assert len(told[0]) > 10
    for verdicts in zip(*told, strict=True):
        assert Counter(verdicts) == {(50, 0): 1, (0, 50): clients - 1}
    ids = [UUID(str(event["event_id"])) for batch in batches for event in batch]
    [(rows, distinct)] = query(
        cluster.url, "SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events WHERE event_id = ANY (%s)", ids
    )
    assert rows == distinct == len(ids)
    figures.faults["8 clients with the same batches"] += 1
    figures.acknowledged += len(ids)
