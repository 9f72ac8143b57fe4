"""Databases for the tests: every server that can be had here, a migrated template on each, a copy of it per test.

As in production a DBA makes the roles (sql/roles.sql), the owner migrates, and the service runs as the writer. The tests
themselves look and sabotage as the DBA.
"""

import os
import secrets
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

import hypothesis
import pytest
import pytest_asyncio

from ingest import __version__
from ingest.settings import DatabaseUrl
from ingest.store import migrate
from ingest.store.database import Database
from ingest.store.writer import BatchWriter
from tests import reliability, servers
from tests.reliability import Figures
from tests.servers import Roles, Server
from tests.service import RunningService, started

# So that two runs on one server (TEST_DB_URL) don't meet.
RUN = f"ingest_test_{os.getpid()}"

_numbers = count()
_figures = pytest.StashKey[Figures]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms of the tests, too: faults, abuse, fuzzing")
    parser.addoption("--write-readme", action="store_true", help="write the README's section on reliability from this run")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-readme") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--write-readme: one process must have run all of it, without --numprocesses")
    config.stash[_figures] = Figures()
    # A short run makes the same examples each time: what fails in CI is the fault of what was changed, and fails again for
    # whoever looks. What nobody thought of is looked for by the long ones. No deadlines: these machines have other work too.
    hypothesis.settings.register_profile("short", derandomize=True, deadline=None)
    hypothesis.settings.register_profile("long", derandomize=False, deadline=None, print_blob=True)
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "short")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="a long form: --long"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--write-readme") and exitstatus == pytest.ExitCode.OK:
        minutes = os.environ.get("SOAK_MINUTES")
        command = shlex.join(["pytest", *session.config.invocation_params.args])
        command = f"SOAK_MINUTES={minutes} {command}" if minutes else command
        reliability.write(reliability.section(session.config.stash[_figures], command, __version__, datetime.now(UTC).date()))


def _group(item: pytest.Item) -> str | None:
    """What one process runs where several share the tests (--dist loadgroup): a server is started, and its template migrated,
    once. None: any process may run it."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    for fixture in ("server", "cluster"):
        if fixture in parameters:
            return f"{fixture} {parameters[fixture]}"
    return None


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Figures:
    """What the run has found so far; tests that are marked `reliability` add to it."""
    return request.config.stash[_figures]


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether the run was asked for the long forms."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session", params=list(servers.SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Every test that needs a database runs on each server; one that can't be had is skipped with its reason."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(servers.SERVERS[request.param]())
        except servers.Unavailable as reason:
            pytest.skip(str(reason))
        yield running


@pytest.fixture(scope="session")
def roles(server: Server) -> Iterator[Roles]:
    """The names of the roles; `template` makes them. They have to be quoted in SQL, as any name may have to."""
    named = Roles(f"{RUN}-Owner", f"{RUN}-Writer", f"{RUN}-Reader", secrets.token_hex())
    yield named
    named.drop(server.admin)


@pytest.fixture(scope="session")
def template(server: Server, roles: Roles) -> Iterator[str]:
    """A database that is migrated and closed, to be copied."""
    name = f"{RUN}_template"
    # Here nobody may do anything but by sql/roles.sql. A copy is not as strict: rights on a database are not copied.
    servers.execute(server.admin, f"CREATE DATABASE {name}", f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    url = server.url_of(name)
    roles.prepare(url)
    migrate.migrate(roles.url(url, roles.owner), chunk_interval_hours=24)
    # Nobody may be connected to a template while it is copied; TimescaleDB's scheduler would be.
    servers.execute(server.admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", _disconnect(name))
    yield name
    servers.execute(server.admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database(server: Server) -> Iterator[DatabaseUrl]:
    """A database without our schema."""
    with _database(server, template=None) as url:
        yield url


@pytest.fixture
def database_url(server: Server, template: str) -> Iterator[DatabaseUrl]:
    """A migrated database of this test's own, for the DBA."""
    with _database(server, template) as url:
        yield url


@pytest.fixture
def owner_url(database_url: DatabaseUrl, roles: Roles) -> DatabaseUrl:
    """The database of `database_url` for its owner, who migrates."""
    return roles.url(database_url, roles.owner)


@pytest.fixture
def writer_url(database_url: DatabaseUrl, roles: Roles) -> DatabaseUrl:
    """The database of `database_url` for the service."""
    return roles.url(database_url, roles.writer)


@pytest.fixture
def reader_url(database_url: DatabaseUrl, roles: Roles) -> DatabaseUrl:
    """The database of `database_url` for reports."""
    return roles.url(database_url, roles.reader)


@pytest.fixture(scope="module")
def shared_database_url(server: Server, template: str) -> Iterator[DatabaseUrl]:
    """A migrated database for all tests of a module, for the DBA."""
    with _database(server, template) as url:
        yield url


@pytest.fixture(scope="module")
def shared_writer_url(shared_database_url: DatabaseUrl, roles: Roles) -> DatabaseUrl:
    """The database of `shared_database_url` for the service."""
    return roles.url(shared_database_url, roles.writer)


@pytest.fixture
def service(writer_url: DatabaseUrl) -> Iterator[RunningService]:
    """The service as a process of its own, on this test's database."""
    with started({"DB_URL": writer_url.reveal()}) as running:
        yield running


@pytest.fixture(scope="module")
def shared_service(shared_writer_url: DatabaseUrl) -> Iterator[RunningService]:
    """One service for all tests of a module, which must not mind one another's rows."""
    with started({"DB_URL": shared_writer_url.reveal()}) as running:
        yield running


@pytest_asyncio.fixture
async def database(writer_url: DatabaseUrl) -> AsyncIterator[Database]:
    """The opened store of this test's database."""
    opened = Database(writer_url, connections_max=8, timeout_seconds=30, queue_timeout_seconds=20)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def writer(database: Database) -> BatchWriter:
    """A writer on this test's database."""
    return BatchWriter(database, chunk_interval=timedelta(hours=24))


@pytest.fixture
def now() -> datetime:
    """The time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _database(server: Server, template: str | None) -> Iterator[DatabaseUrl]:
    name = f"{RUN}_{next(_numbers)}"
    servers.execute(server.admin, f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    try:
        yield server.url_of(name)
    finally:
        servers.execute(server.admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _disconnect(name: str) -> str:
    return f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
