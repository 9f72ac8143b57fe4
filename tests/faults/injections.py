"""The faults: each comes, stays for a while, and goes. What is left to do then is nobody's but the service's."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import psycopg

from tests.faults.proxy import Damage, Moment
from tests.faults.scene import SETTINGS, Scene
from tests.servers import query

STRIKE_SECONDS_MAX = 10
ACKNOWLEDGED_SECONDS_MAX = 2
PAUSE_SECONDS = 0.5

Injection = Callable[[Scene, float], None]
"""Injects a fault that lasts for about so many seconds, and takes it away."""


def killed(scene: Scene, seconds: float) -> None:
    """PostgreSQL is killed with -9 and started again."""
    scene.cluster.kill()
    time.sleep(seconds)
    scene.cluster.start()


def restarted(mode: str, scene: Scene, seconds: float) -> None:
    """PostgreSQL is stopped and started again."""
    scene.cluster.stop(mode)
    time.sleep(seconds)
    scene.cluster.start()


def frozen(scene: Scene, seconds: float) -> None:
    """PostgreSQL stops where it is, and goes on."""
    scene.cluster.freeze()
    try:
        _stand(scene, seconds)
    finally:
        scene.cluster.thaw()


def struck(moment: Moment, damage: Damage, scene: Scene, seconds: float) -> None:
    """A connection is cut or blackholed, or one end of it, at the worst moment."""
    scene.proxy.strike_at(moment, damage)
    assert scene.proxy.await_strike(STRIKE_SECONDS_MAX)
    time.sleep(seconds)
    scene.proxy.heal()


def all_struck(damage: Damage, scene: Scene, seconds: float) -> None:
    """All connections are cut or blackholed, and no new one comes through."""
    scene.proxy.strike_all(damage)
    _stand(scene, seconds)
    scene.proxy.heal()


def all_forgotten(scene: Scene, seconds: float) -> None:
    """The network forgets all connections, and no new one comes through for a while. A load balancer asks who is ready."""
    scene.proxy.strike_all(Damage.FORGOTTEN)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        scene.service.is_ready()
    scene.proxy.heal()


def disk_full(scene: Scene, seconds: float) -> None:
    """The database's disk is full, and then it is not. A server that gave up is started again, as its operator would."""
    scene.cluster.fill_disk()
    time.sleep(seconds)
    scene.cluster.empty_disk()
    scene.cluster.start()


def slow_statements(scene: Scene, seconds: float) -> None:
    """Statements take longer than they may (statement_timeout)."""
    scene.execute(
        "CREATE OR REPLACE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON analytics.usage_event_ids FOR EACH STATEMENT EXECUTE FUNCTION public.slow()",
    )
    _stand(scene, seconds)
    _insist(scene, "DROP TRIGGER slow ON analytics.usage_event_ids")


def locked_by_ddl(scene: Scene, seconds: float) -> None:
    """Somebody adds a column, and thinks about it before the commit."""
    with scene.transaction() as dba:
        dba.execute("ALTER TABLE analytics.usage_events ADD COLUMN later integer")
        _stand(scene, seconds)


def pool_exhausted(scene: Scene, seconds: float) -> None:
    """Every connection of the pool waits for a ledger that somebody holds."""
    with scene.transaction() as dba:
        dba.execute("LOCK TABLE analytics.usage_event_ids IN SHARE MODE")
        _await_waiting(scene, int(SETTINGS["DB_POOL_SIZE"]))
        _stand(scene, seconds)


def connections_used_up(scene: Scene, seconds: float) -> None:
    """Others take every connection that the server has left (max_connections). The service goes on with those that it has."""
    until = time.monotonic() + seconds
    with ExitStack() as others:
        while time.monotonic() < until:
            with suppress(psycopg.OperationalError):
                while True:
                    others.enter_context(psycopg.connect(scene.url.reveal()))
            scene.load.await_acknowledgement(ACKNOWLEDGED_SECONDS_MAX)


def sessions_terminated(scene: Scene, seconds: float) -> None:
    """An administrator ends all sessions, again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        scene.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        time.sleep(0.1)


def service_killed(scene: Scene, seconds: float) -> None:
    """The service is killed with -9 in mid-batch and started again."""
    scene.service.kill()
    time.sleep(seconds)
    scene.service.start()


def clock_stepped_back(scene: Scene, seconds: float) -> None:
    """The service's clock goes back by an hour, and later forward again; the clients' and the database's are right."""
    scene.set_clock(-3600)
    time.sleep(seconds)
    scene.set_clock(0)


def _stand(scene: Scene, seconds: float) -> None:
    """Lets a fault stand in which nothing can be stored. Raises AssertionError if something is: then it is none."""
    time.sleep(seconds / 2)
    begun = time.monotonic()
    time.sleep(seconds / 2)
    assert scene.load.account.last_acknowledged < begun, "batches are acknowledged"


def _await_waiting(scene: Scene, sessions: int) -> None:
    """Returns when so many sessions wait for a lock. Raises AssertionError if they don't within STRIKE_SECONDS_MAX."""
    deadline = time.monotonic() + STRIKE_SECONDS_MAX
    while query(scene.url, "SELECT count(DISTINCT pid) < %s FROM pg_locks WHERE NOT granted", sessions)[0][0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _insist(scene: Scene, statement: str) -> None:
    """Runs a DDL statement that waits for locks of writers; they give up in time."""
    deadline = time.monotonic() + STRIKE_SECONDS_MAX
    while True:
        try:
            scene.execute("SET lock_timeout = '3s'", statement)
        except psycopg.errors.LockNotAvailable:
            assert time.monotonic() < deadline
        else:
            return


@dataclass(frozen=True)
class Fault:
    """A fault by its name."""

    name: str
    inject: Injection
    seconds: float = PAUSE_SECONDS
    """How long it lasts."""
    long_seconds: float | None = None
    """How long it lasts in a long form."""


FAULTS = [
    Fault("PostgreSQL killed with -9", killed),
    Fault("PostgreSQL stopped smartly and started", partial(restarted, "smart")),
    Fault("PostgreSQL stopped fast and started", partial(restarted, "fast")),
    Fault("PostgreSQL stopped at once and started", partial(restarted, "immediate")),
    Fault("PostgreSQL frozen", frozen, 3, 30),
    *(Fault(f"connection cut {moment.value}", partial(struck, moment, Damage.CUT)) for moment in Moment),
    *(
        Fault(f"connection blackholed {moment.value}", partial(struck, moment, Damage.BLACKHOLED), 3)
        for moment in (Moment.IN_COPY, Moment.AFTER_COMMIT)
    ),
    *(
        Fault(f"connection blackholed for good {moment.value}", partial(struck, moment, Damage.FORGOTTEN))
        for moment in (Moment.AFTER_CLAIMS, Moment.BEFORE_COMMIT)
    ),
    Fault(f"connection half open {Moment.AFTER_CLAIMS.value}", partial(struck, Moment.AFTER_CLAIMS, Damage.HALF_OPEN)),
    Fault("all connections cut", partial(all_struck, Damage.CUT), 1, 10),
    Fault("all connections blackholed", partial(all_struck, Damage.BLACKHOLED), 3, 30),
    Fault("statements past statement_timeout", slow_statements, 3),
    Fault("table locked by a DDL", locked_by_ddl, 2, 20),
    Fault("pool exhausted", pool_exhausted, 2, 20),
    Fault("connections of the server used up", connections_used_up, 2, 25),
    Fault("sessions ended by an administrator", sessions_terminated, 1, 10),
    Fault("service killed with -9", service_killed),
]
"""All but those that need a cluster or a service of their own."""

DISK_FULL = Fault("disk of the database full", disk_full, 2, 20)
ALL_FORGOTTEN = Fault("all connections blackholed for good", all_forgotten, 3, 20)
CLOCK_STEPPED_BACK = Fault("clock stepped back an hour", clock_stepped_back, 2, 20)
