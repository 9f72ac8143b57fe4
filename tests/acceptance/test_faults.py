"""Whatever fails: every acknowledged event is stored exactly once, none is that was rejected, and recovery needs no human."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

from tests.faults import cluster as clusters
from tests.faults.audit import audit
from tests.faults.cluster import Cluster
from tests.faults.injections import FAULTS, Fault
from tests.faults.load import Load
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene, Service, service_on
from tests.reliability import Figures
from tests.servers import Unavailable, query

pytestmark = pytest.mark.reliability

STEADY_SECONDS_MAX = 10

_seeds = count(1)

Play = Callable[[Fault], None]


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
        fault.inject(scene, (fault.long_seconds or fault.seconds) if is_long else fault.seconds)
        scene.recover()

    found = audit(cluster.url, load.account)
    figures.faults[fault.name] += 1
    figures.acknowledged += found.acknowledged
    figures.lost += found.lost
    figures.twice += found.twice
    figures.stored_though_rejected += found.stored_though_rejected
    [(version,)] = query(cluster.url, "SELECT 'PostgreSQL ' || split_part(version(), ' ', 2)")
    figures.databases.add(str(version))
    assert found.acknowledged > 0
    assert found.is_clean, found
    assert load.account.surprises == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_or_doubled(
    cluster: Cluster, serving: tuple[Proxy, Service], fault: Fault, figures: Figures, is_long: bool
) -> None:
    play(cluster, serving, fault, figures, is_long=is_long)
