"""sql/roles.sql and sql/grants.sql: who may do what, and nothing more. That the writer may do what it needs, every other test
shows: in all of them the service runs as the writer."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS
from ingest.settings import DatabaseUrl
from ingest.store import files, migrate, policies, status
from ingest.store.api_keys import StoredKeys
from ingest.store.database import Database
from ingest.store.event_teams import EventTeams
from ingest.store.figures import Figures
from ingest.store.writer import BatchWriter
from ingest.verdict import Outcome
from tests import rollups, servers
from tests.samples import archive, event
from tests.servers import Roles
from tests.storing import store

POLICY_SETTINGS = {
    "chunk_time_interval_hours": 24,
    "compression_after_days": 7,
    "retention_days": 180,
    "dedupe_window_days": 180,
}

WRITER = {
    "USAGE on analytics",
    "SELECT on _yoyo_migration",
    "SELECT on installation",
    "SELECT on time_bounds",
    "INSERT on usage_event_ids",
    "SELECT on usage_event_ids.event_id",
    "SELECT on usage_event_ids.fingerprint",
    "INSERT on usage_events",
    "INSERT on message_archive_ids",
    "SELECT on message_archive_ids.event_id",
    "SELECT on message_archive_ids.stored_at",
    "SELECT on message_archive_ids.fingerprint",
    "INSERT on message_archives",
    "SELECT on api_keys",
    "EXECUTE on teams_of_events",
}
WRITER_BY_EDITION = {
    "timescaledb": set[str](),
    "timescaledb-apache": {"INSERT on usage_changes", "SELECT on maintenance_jobs"},
    "postgresql": {
        "INSERT on usage_changes",
        "SELECT on maintenance_jobs",
        "SELECT on partitions",
        "EXECUTE on ensure_partition",
    },
}
READER = {
    "USAGE on analytics",
    "SELECT on usage_events",
    "SELECT on usage_event_ids",
    "SELECT on usage_hourly",
    "SELECT on usage_daily",
    "SELECT on usage_daily_by_user",
    "SELECT on time_bounds",
    "SELECT on _yoyo_migration",
    "SELECT on installation",
    "SELECT on maintenance_jobs",
    "SELECT on policy_history",
    "SELECT on partitions",
}
READER_BY_EDITION = {
    "timescaledb": set[str](),
    "timescaledb-apache": {"SELECT on usage_changes"},
    "postgresql": {"SELECT on usage_changes"},
}

RIGHTS = """
    SELECT coalesce(rolname, 'PUBLIC'), privilege_type || ' on ' || object
    FROM (
        SELECT nspname::text AS object, nspacl AS acl FROM pg_namespace WHERE nspname = 'analytics'
        UNION ALL
        SELECT relname, relacl FROM pg_class WHERE relnamespace = 'analytics'::regnamespace
        UNION ALL
        SELECT format('%s.%s', relname, attname), attacl
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'analytics'::regnamespace
        UNION ALL
        SELECT proname, proacl FROM pg_proc WHERE pronamespace = 'analytics'::regnamespace
    ) objects
    CROSS JOIN aclexplode(acl)
    LEFT JOIN pg_roles ON pg_roles.oid = grantee
    WHERE grantee <> grantor
"""

# Owner by owner, what is in our schema or, as a chunk, in TimescaleDB's.
OWNERS = """
    SELECT DISTINCT owner::regrole::oid
    FROM (
        SELECT nspowner AS owner FROM pg_namespace WHERE nspname = 'analytics'
        UNION ALL
        SELECT relowner FROM pg_class
        WHERE relnamespace = 'analytics'::regnamespace
           OR (relnamespace = to_regnamespace('_timescaledb_internal')
               AND relname ~ '_(hyper|view)_' AND relkind IN ('r', 'v'))
        UNION ALL
        SELECT proowner FROM pg_proc WHERE pronamespace = 'analytics'::regnamespace
    ) objects
"""


def rights(url: DatabaseUrl, role: str) -> set[str]:
    """Everything that was granted to a role in the schema, the schema included, down to columns."""
    return {str(right) for grantee, right in servers.query(url, RIGHTS) if grantee == role}


def granted(right: str) -> str:
    """A right as GRANT and REVOKE have it: SELECT on t.c becomes SELECT (c) ON analytics.t."""
    privilege, _, name = right.partition(" on ")
    if privilege in ("USAGE", "EXECUTE"):
        return f"USAGE ON SCHEMA {name}" if privilege == "USAGE" else f"EXECUTE ON FUNCTION analytics.{name}"
    table, _, column = name.partition(".")
    return f"{privilege} ({column}) ON analytics.{table}" if column else f"{privilege} ON analytics.{table}"


def use(url: DatabaseUrl, now: datetime) -> None:
    """What the service does with its database: events and archives, new ones and again; keys, whose an event is, and the
    metrics. Raises what is in the way."""
    asyncio.run(_use(url, now))


async def _use(url: DatabaseUrl, now: datetime) -> None:
    database = await opened(url)
    try:
        if database.problem is not None:
            raise database.problem
        writer = BatchWriter(database, chunk_interval=timedelta(hours=24))
        events = [event(event_time=now - timedelta(days=k)) for k in range(3)]
        archives = [archive(item.event_id) for item in events]
        for stream, items in ((USAGE_EVENTS, events), (MESSAGE_ARCHIVES, archives)):
            assert (await store(writer, stream, items)).outcomes == {}
            again = await store(writer, stream, items)
            assert again.outcomes == dict.fromkeys(range(3), Outcome.DUPLICATE)
        assert await StoredKeys(database).find(["unknown"]) == {}
        event_ids = [item.event_id.bytes for item in events]
        assert await EventTeams(database).teams_of(event_ids) == dict.fromkeys(event_ids, "search")
        assert {ledger.stream for ledger in (await Figures(database).ask()).ledgers} == {"usage_events", "message_archives"}
    finally:
        await database.close()


async def opened(url: DatabaseUrl) -> Database:
    database = Database(url, connections_max=1, timeout_seconds=30, queue_timeout_seconds=5)
    await database.open()
    return database


@pytest.fixture
def with_policies(owner_url: DatabaseUrl, database_url: DatabaseUrl) -> DatabaseUrl:
    """The test's database, with all policies, whose jobs don't run."""
    rollups.stop_scheduler(database_url)
    policies.apply(owner_url, POLICY_SETTINGS)
    return database_url


def test_writer_and_reader_have_these_rights_and_no_others(with_policies: DatabaseUrl, roles: Roles) -> None:
    """A new table is closed to them until sql/grants.sql, and this test, open it."""
    assert rights(with_policies, roles.writer) == WRITER | WRITER_BY_EDITION[rollups.edition(with_policies)]
    assert rights(with_policies, roles.reader) == READER | READER_BY_EDITION[rollups.edition(with_policies)]


def test_public_may_call_functions_and_none_with_more_rights_than_its_own(with_policies: DatabaseUrl) -> None:
    assert {right.partition(" on ")[0] for right in rights(with_policies, "PUBLIC")} <= {"EXECUTE"}
    with_rights_of_the_owner = "FROM pg_proc WHERE pronamespace = 'analytics'::regnamespace AND prosecdef"
    assert servers.query(with_policies, f"SELECT proname::text {with_rights_of_the_owner} ORDER BY 1") == [
        ("ensure_partition",),
        ("teams_of_events",),
    ]
    assert servers.query(
        with_policies, f"SELECT has_function_privilege('pg_monitor', oid, 'EXECUTE') {with_rights_of_the_owner}"
    ) == [(False,), (False,)]


def test_the_writer_needs_every_one_of_its_rights(
    database_url: DatabaseUrl, writer_url: DatabaseUrl, roles: Roles, now: datetime
) -> None:
    use(writer_url, now)
    for right in sorted(rights(database_url, roles.writer)):
        servers.execute(database_url, f'REVOKE {granted(right)} FROM "{roles.writer}"')
        now -= timedelta(days=5)  # for a batch that needs a new partition
        with pytest.raises(errors.SetupError, match=r"permission denied|not open to the user"):
            use(writer_url, now)
        servers.execute(database_url, f'GRANT {granted(right)} TO "{roles.writer}"')
    use(writer_url, now)


DENIED_TO_THE_WRITER = [
    "SELECT event_id FROM analytics.usage_events",
    "SELECT prompt_full FROM analytics.message_archives",
    "SELECT event_time FROM analytics.usage_event_ids",
    "UPDATE analytics.api_keys SET revoked_at = NULL",
    "INSERT INTO analytics.api_keys (key_id, name, secret_sha256, scope) VALUES ('', '', '', '')",
    "INSERT INTO analytics.time_bounds VALUES ('ids_from', now())",
    "INSERT INTO analytics.installation (edition) VALUES ('postgresql')",
    "INSERT INTO analytics.policy_history (policy, file, settings, state) VALUES ('', '', '{}', '{}')",
    "SELECT analytics.note_bound('ids_from', now())",
    "SELECT analytics.record_policy('', 1, '{}')",
    "SELECT analytics.ensure_job('usage_event_ids.pruning', 'analytics.prune_ledger', '{}', '1 hour')",
    "CREATE TABLE analytics.mine ()",
    "CREATE FUNCTION analytics.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "COPY analytics.usage_events TO STDOUT",
    "COPY (SELECT 1) TO PROGRAM 'true'",
]
DENIED_TO_THE_READER = [
    "SELECT analytics.teams_of_events('{}')",
    "SELECT name FROM analytics.api_keys",
    "SELECT prompt_full FROM analytics.message_archives",
    "SELECT event_id FROM analytics.message_archive_ids",
    "INSERT INTO analytics.usage_event_ids VALUES (gen_random_uuid(), now(), 1)",
    "SELECT analytics.ensure_partition('usage_events', now(), '1 day')",
    "CREATE TABLE analytics.mine ()",
]


def test_what_the_writer_may_not_do(with_policies: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    for statement in [*DENIED_TO_THE_WRITER, *changes(with_policies)]:
        assert is_denied(writer_url, statement), statement


def test_what_the_reader_may_not_do(with_policies: DatabaseUrl, reader_url: DatabaseUrl) -> None:
    for statement in [*DENIED_TO_THE_READER, *changes(with_policies)]:
        assert is_denied(reader_url, statement), statement


def test_the_writer_can_make_no_partition_that_the_service_would_not(
    database_url: DatabaseUrl, writer_url: DatabaseUrl
) -> None:
    if rollups.edition(database_url) != "postgresql":
        pytest.skip("only PostgreSQL has them")
    for moment, width in [
        ("now()", "1 second"),
        ("now()", "90 minutes"),
        ("now()", "8761 hours"),
        ("now()", "-1 hour"),
        ("'infinity'", "1 day"),
    ]:
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            servers.execute(writer_url, f"SELECT analytics.ensure_partition('usage_events', {moment}, '{width}')")
    assert servers.query(database_url, "SELECT count(*) FROM analytics.partitions") == [(0,)]

    servers.execute(writer_url, "SELECT analytics.ensure_partition('usage_events', now(), '1 hour')")
    assert servers.query(database_url, "SELECT upper_bound - lower_bound FROM analytics.partitions") == [
        (timedelta(hours=1),)
    ]


def test_the_writer_notes_nothing_but_buckets(database_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    if rollups.edition(database_url) == "timescaledb":
        pytest.skip("TimescaleDB Community keeps its own notes")
    for note in ("'nonsense', '2026-01-01'", "'usage_hourly', '-infinity'", "'usage_hourly', '2026-01-01 00:30Z'"):
        with pytest.raises(psycopg.errors.CheckViolation):
            servers.execute(writer_url, f"INSERT INTO analytics.usage_changes VALUES ({note})")

    servers.execute(writer_url, "INSERT INTO analytics.usage_changes VALUES ('usage_hourly', '2026-01-01 13:00Z')")


def test_apply_grants_what_is_missing_also_where_it_has_nothing_else_to_do(
    with_policies: DatabaseUrl, owner_url: DatabaseUrl, writer_url: DatabaseUrl, roles: Roles, now: datetime
) -> None:
    servers.execute(with_policies, f'REVOKE INSERT ON analytics.usage_events FROM "{roles.writer}"')
    with pytest.raises(errors.DatabaseRefused):
        use(writer_url, now)

    assert policies.apply(owner_url, POLICY_SETTINGS).pending == []

    use(writer_url, now)


def test_what_a_superuser_applies_is_the_owners(database_url: DatabaseUrl, owner_url: DatabaseUrl, roles: Roles) -> None:
    rollups.stop_scheduler(database_url)

    policies.apply(database_url, POLICY_SETTINGS)

    [(owner,)] = servers.query(database_url, "SELECT oid FROM pg_roles WHERE rolname = %s", roles.owner)
    assert servers.query(database_url, OWNERS) == [(owner,)]
    if rollups.edition(database_url) == "timescaledb":
        assert servers.query(
            database_url, "SELECT DISTINCT owner::oid FROM timescaledb_information.jobs WHERE job_id >= 1000"
        ) == [(owner,)]
    assert policies.plan(owner_url, POLICY_SETTINGS).pending == []
    applied_by = servers.query(database_url, "SELECT DISTINCT applied_by, session_user::text FROM analytics.policy_history")
    assert applied_by[0][0] == applied_by[0][1]


def test_neither_may_make_tables_in_public(
    database_url: DatabaseUrl, writer_url: DatabaseUrl, reader_url: DatabaseUrl
) -> None:
    # PostgreSQL 14 lets everybody; sql/roles.sql says so and leaves it to the DBA.
    servers.execute(database_url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")

    assert is_denied(writer_url, "CREATE TABLE public.mine ()")
    assert is_denied(reader_url, "CREATE TABLE public.mine ()")


def test_chunks_and_partitions_are_as_closed_as_their_tables(
    with_policies: DatabaseUrl, writer_url: DatabaseUrl, reader_url: DatabaseUrl, now: datetime
) -> None:
    use(writer_url, now)
    if rollups.edition(with_policies) == "timescaledb":
        servers.execute(with_policies, "SELECT compress_chunk(chunk) FROM show_chunks('analytics.message_archives') chunk")
    tables = servers.query(
        with_policies,
        "SELECT oid::regclass::text, relname ~ '^message_archives|_hyper_2_|^compress' FROM pg_class"
        " WHERE relkind = 'r' AND (relispartition OR relname ~ '_hyper_')",
    )

    assert any(is_of_archives for _, is_of_archives in tables)
    for table, is_of_archives in tables:
        for statement in (f"SELECT * FROM {table}", f"DELETE FROM {table}", f"UPDATE {table} SET event_id = NULL"):
            assert is_denied(writer_url, statement), statement
            # Of usage events it may read a chunk, as it may read the table.
            assert is_denied(reader_url, statement) or (not is_of_archives and "SELECT" in statement), statement


def test_the_reader_reads_events_ids_and_rollups(
    with_policies: DatabaseUrl, owner_url: DatabaseUrl, writer_url: DatabaseUrl, reader_url: DatabaseUrl, now: datetime
) -> None:
    use(writer_url, now - timedelta(days=2))
    rollups.run_jobs(owner_url)
    use(writer_url, now)

    today = now.replace(hour=0, minute=0, second=0)
    for rollup in ("usage_hourly", "usage_daily", "usage_daily_by_user"):
        requests = f"SELECT coalesce(sum(requests), 0)::int FROM analytics.{rollup} WHERE bucket"
        assert servers.query(reader_url, f"{requests} < %s", today - timedelta(days=2)) == [(2,)], "what a refresh has stored"
        assert servers.query(reader_url, f"{requests} >= %s", today) == [(1,)], "what is in the raw rows only"
    percentiles = "analytics.latency_percentiles(analytics.sum_latency_le(latency_le), 1, 1)"
    servers.query(reader_url, f"SELECT {percentiles} FROM analytics.usage_daily")
    assert servers.query(
        reader_url, "SELECT count(*) FROM analytics.usage_events JOIN analytics.usage_event_ids USING (event_id)"
    ) == [(6,)]
    servers.query(reader_url, "SELECT * FROM analytics.policy_history")
    assert status.status(reader_url).not_applied == []


def test_the_service_works_with_policies_and_into_compressed_chunks(
    with_policies: DatabaseUrl, owner_url: DatabaseUrl, writer_url: DatabaseUrl, now: datetime
) -> None:
    old = now - timedelta(days=20)
    use(writer_url, old)
    rollups.run_jobs(owner_url)
    if rollups.edition(with_policies) == "timescaledb":
        assert servers.query(
            with_policies,
            "SELECT bool_or(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'usage_events'",
        ) == [(True,)]

    use(writer_url, old)


def test_the_service_works_where_public_may_nothing(
    database_url: DatabaseUrl, writer_url: DatabaseUrl, roles: Roles, now: datetime
) -> None:
    name = servers.query(database_url, "SELECT quote_ident(current_database())")[0][0]
    servers.execute(database_url, f"REVOKE ALL ON DATABASE {name} FROM PUBLIC", "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    with pytest.raises(errors.DatabaseRefused, match="permission denied for database"):
        use(writer_url, now)

    roles.prepare(database_url)

    use(writer_url, now)


def test_both_files_may_run_again_and_remember_the_names(
    database_url: DatabaseUrl, owner_url: DatabaseUrl, roles: Roles
) -> None:
    servers.execute(database_url, f'GRANT SELECT ON analytics.message_archives TO "{roles.reader}"')
    before = servers.query(database_url, RIGHTS + " ORDER BY 1, 2")

    servers.execute(database_url, files.sql("roles"), files.sql("grants"))
    servers.execute(owner_url, files.sql("grants"))

    # With what the DBA granted besides.
    assert servers.query(database_url, RIGHTS + " ORDER BY 1, 2") == before
    assert "SELECT on message_archives" in rights(database_url, roles.reader)


def test_without_roles_nothing_is_granted(empty_database: DatabaseUrl, template: str, roles: Roles) -> None:
    """The roles exist on this server, for another database."""
    migrate.migrate(empty_database, chunk_interval_hours=24)

    servers.execute(empty_database, files.sql("grants"))

    assert servers.query(empty_database, RIGHTS) == []
    assert is_denied(roles.url(empty_database, roles.writer), "INSERT INTO analytics.usage_events SELECT")


def test_an_installation_that_somebody_else_made_becomes_the_owners(
    empty_database: DatabaseUrl, template: str, roles: Roles, now: datetime
) -> None:
    migrate.migrate(empty_database, chunk_interval_hours=24)
    rollups.stop_scheduler(empty_database)
    policies.apply(empty_database, POLICY_SETTINGS)
    use(empty_database, now - timedelta(days=20))
    rollups.run_jobs(empty_database)

    roles.prepare(empty_database)

    [(owner,)] = servers.query(empty_database, "SELECT oid FROM pg_roles WHERE rolname = %s", roles.owner)
    assert servers.query(empty_database, OWNERS) == [(owner,)]
    as_owner = roles.url(empty_database, roles.owner)
    assert migrate.migrate(as_owner, chunk_interval_hours=24) == []
    policies.apply(as_owner, POLICY_SETTINGS)
    assert policies.plan(as_owner, POLICY_SETTINGS).pending == []
    use(roles.url(empty_database, roles.writer), now - timedelta(days=20))
    rollups.run_jobs(as_owner)
    if rollups.edition(empty_database) == "timescaledb":
        assert servers.query(
            empty_database, "SELECT DISTINCT owner::oid FROM timescaledb_information.jobs WHERE job_id >= 1000"
        ) == [(owner,)]


async def test_a_schema_that_is_not_open_yet_is_waited_for(
    database_url: DatabaseUrl, writer_url: DatabaseUrl, owner_url: DatabaseUrl, roles: Roles
) -> None:
    """As in the middle of the first migration, which grants at its end."""
    servers.execute(database_url, f'REVOKE SELECT ON analytics._yoyo_migration FROM "{roles.writer}"')
    database = await opened(writer_url)
    try:
        assert isinstance(database.problem, errors.SchemaBehind)
        assert roles.writer in str(database.problem)
    finally:
        await database.close()

    migrate.migrate(owner_url, chunk_interval_hours=24)

    database = await opened(writer_url)
    await database.close()
    assert database.problem is None


def changes(url: DatabaseUrl) -> Iterator[str]:
    """A statement of each kind that changes or removes, for each table and view."""
    relations: list[tuple[Any, ...]] = servers.query(
        url,
        "SELECT relname, relkind::text, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = 1"
        " WHERE relnamespace = 'analytics'::regnamespace AND relkind IN ('r', 'p', 'v')",
    )
    assert len(relations) > 10
    for name, kind, column in relations:
        table = f'analytics."{name}"'
        if kind != "v":
            yield f"UPDATE {table} SET {column} = DEFAULT"
            yield f"DELETE FROM {table}"
            yield f"TRUNCATE {table}"
            yield f"DROP TABLE {table}"
            yield f"ALTER TABLE {table} ADD COLUMN mine integer"
            yield f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
        else:
            yield f"COMMENT ON VIEW {table} IS 'mine'"


def is_denied(url: DatabaseUrl, statement: str) -> bool:
    """Whether the database denies it for want of a right. Nothing is left of it if not."""
    with psycopg.connect(url.reveal()) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
        finally:
            connection.rollback()
    return False
