"""Policies: the files of `sql/policies` against what the database has. `plan` compares, `apply` runs the files that differ.

A file is the truth about its policy. It says in `analytics.policy_history` what settings it was given and what was there
right after it; a policy is to be applied again when its file, a setting it reads, or what is there differs from that.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow, dict_row

from ingest import errors
from ingest.settings import DatabaseUrl
from ingest.store import failures, files, libpq
from ingest.store.editions import Edition

# In this order: rollups take what the retention will drop.
KINDS = ("partitions", "compression", "rollups", "retention", "pruning")

LOCK_WAIT_SECONDS = 300

# Batches queue behind who waits for an exclusive lock on their table, so the waits are short and repeated.
TABLE_LOCK_SECONDS = 0.5
TABLE_LOCK_ATTEMPTS = 20
TABLE_LOCK_PAUSE_SECONDS = 1.0

_FILE_NAME = re.compile(r"(?P<policy>\w+\.(?P<kind>\w+))\.v(?P<version>\d+)\.sql")
_SETTING_READ = re.compile(r"analytics\.setting\('(\w+)', ")

Connection = psycopg.Connection[DictRow]


class PolicyFile(Struct, frozen=True):
    """A file of `sql/policies/<edition>`."""

    policy: str
    """<table>.<kind>"""
    kind: str
    version: int
    name: str
    """The path under `sql/policies`."""
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def settings(self) -> list[str]:
        """The names of the settings that the file reads."""
        return sorted(set(_SETTING_READ.findall(self.text)))


class Change(Struct, frozen=True):
    """One thing that differs."""

    what: str
    actual: Any
    desired: Any
    why: str


class PlannedPolicy(Struct, frozen=True, kw_only=True):
    """A policy as it is and as it would be."""

    policy: str
    file: str
    action: str
    """create, change or none"""
    changes: Sequence[Change] = ()
    deletes_rows: bool = False
    """Whether rows would go that are kept now."""


class Plan(Struct, frozen=True):
    """All policies of an edition."""

    edition: Edition
    policies: Sequence[PlannedPolicy]
    others: Sequence[str] = ()
    """Jobs that somebody made by hand. They are left alone."""

    @property
    def pending(self) -> list[PlannedPolicy]:
        """Those that `apply` would apply."""
        return [policy for policy in self.policies if policy.action != "none"]


def newest_files(edition: Edition) -> list[PolicyFile]:
    """The newest version of each policy file of an edition, in the order in which they are applied."""
    newest: dict[str, PolicyFile] = {}
    for path in files.policy_paths(edition.value):
        match = _FILE_NAME.fullmatch(path.name)
        assert match is not None, f"{path.name} is not named <table>.<kind>.v<N>.sql"
        file = PolicyFile(
            match["policy"], match["kind"], int(match["version"]), f"{edition}/{path.name}", path.read_text(encoding="utf-8")
        )
        if file.policy not in newest or newest[file.policy].version < file.version:
            newest[file.policy] = file
    return sorted(newest.values(), key=lambda file: (KINDS.index(file.kind), file.policy))


def plan(url: DatabaseUrl, settings: Mapping[str, int]) -> Plan:
    """What `apply` would do with these settings (Settings.policy_settings). Runs in a read-only transaction.

    Raises errors.SchemaBehind without our schema, errors.Unavailable if the database does not answer.
    """
    with connected(url) as connection, connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        return plan_of(connection, settings)


def apply(
    url: DatabaseUrl,
    settings: Mapping[str, int],
    *,
    allow_data_loss: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Plan:
    """Applies what differs, and returns the plan that it followed. Of two at once the second waits, and finds nothing to do.

    All files run in one transaction. The exception is a retention on TimescaleDB Community that will drop rows at once:
    continuous aggregates can't be refreshed in a transaction, so they are made and brought up to date before it is set.

    say: is told about steps that take long, a line at a time.

    Raises errors.PolicyRefused if a change would delete rows that are kept now and `allow_data_loss` was not said, or if the
    database does not take a file; then nothing of that transaction is done. Others as `plan`.
    """
    with connected(url) as connection:
        connection.add_notice_handler(lambda notice: _pass_on(notice, say))
        try:
            connection.execute(files.sql("state/lock_policies").encode())
        except psycopg.errors.LockNotAvailable as error:
            raise errors.PolicyRefused(
                f"Another program has been applying policies for {LOCK_WAIT_SECONDS} s. Nothing is changed; try again later."
            ) from error
        _become_owner(connection)
        with connection.transaction():
            planned = plan_of(connection, settings)
        pending = {policy.policy for policy in planned.pending}
        to_run = [file for file in newest_files(planned.edition) if file.policy in pending]
        if not to_run:
            connection.execute(files.sql("grants").encode())
            return planned
        refused = [policy.policy for policy in planned.pending if policy.deletes_rows]
        if refused and not allow_data_loss:
            raise errors.PolicyRefused(
                f"A retention that is shorter, or is back, deletes rows that are kept now ({', '.join(refused)}). Nothing is "
                "changed. If that is what you want, run `ingest policies apply --allow-data-loss`."
            )
        # Rollups that are made again hold nothing, and the job of a retention that is there may run before theirs.
        if pending & {"usage_events.retention", "usage_events.rollups"} and _must_fill_rollups(
            connection, planned.edition, settings
        ):
            first = [file for file in to_run if file.kind != "retention"]
            _run(connection, first, settings, allow_data_loss=allow_data_loss)
            # The first may take hours. The second takes what came meanwhile: the retention asks for one of the last hour.
            for words in ("What the retention may drop goes into the rollups first:", "Once more, for what came meanwhile:"):
                say(words)
                connection.execute(files.sql("state/refresh_all_rollups").encode())
            to_run = [file for file in to_run if file.kind == "retention"]
        _run(connection, to_run, settings, allow_data_loss=allow_data_loss)
        return planned


def plan_of(connection: Connection, settings: Mapping[str, int]) -> Plan:
    """As `plan`, on a connection that there is."""
    edition = edition_of(connection)
    wanted = newest_files(edition)
    rows = connection.execute(
        files.sql("state/policies").encode(), ([file.policy for file in wanted], settings["retention_days"])
    ).fetchall()
    others = [job["job"] for job in jobs(connection, edition) if job["policy"] is None]
    return Plan(edition, [_compare(file, row, settings) for file, row in zip(wanted, rows, strict=True)], others)


def jobs(connection: Connection, edition: Edition) -> list[DictRow]:
    """The jobs that there are, with the columns of `status/jobs.*.sql`; those that somebody made by hand without a policy."""
    if edition is Edition.TIMESCALEDB:
        return connection.execute(files.sql("status/jobs.timescaledb").encode()).fetchall()
    ours = [file.policy for file in newest_files(edition)]
    return connection.execute(files.sql("status/jobs.maintained").encode(), (ours,)).fetchall()


def _compare(file: PolicyFile, row: Mapping[str, Any], settings: Mapping[str, int]) -> PlannedPolicy:
    desired = {name: settings[name] for name in file.settings}
    actual: Mapping[str, Any] = row["actual_state"] or {}
    if row["file"] is None:
        changes = [Change(_variable(name), None, value, "not applied yet") for name, value in desired.items()]
        changes += [
            Change(name, value, None, "made by hand; the file takes it over") for name, value in sorted(actual.items())
        ]
        return PlannedPolicy(
            policy=file.policy, file=file.name, action="create", changes=changes, deletes_rows=row["deletes_rows"]
        )
    changes = []
    if row["file"] != file.name:
        changes.append(Change("file", row["file"], file.name, "another version"))
    elif row["checksum"] not in (None, file.checksum):
        changes.append(
            Change("checksum", row["checksum"][:12], file.checksum[:12], "the file is not the one that was applied")
        )
    applied: Mapping[str, Any] = row["settings"]
    changes += [
        Change(_variable(name), applied.get(name), value, "the setting changed")
        for name, value in desired.items()
        if applied.get(name) != value
    ]
    recorded: Mapping[str, Any] = row["applied_state"]
    changes += [
        Change(name, actual.get(name), recorded.get(name), "changed by hand since it was applied")
        for name in sorted(recorded.keys() | actual.keys())
        if actual.get(name) != recorded.get(name)
    ]
    return PlannedPolicy(
        policy=file.policy,
        file=file.name,
        action="change" if changes else "none",
        changes=changes,
        deletes_rows=bool(changes) and row["deletes_rows"],
    )


def _become_owner(connection: Connection) -> None:
    edition_of(connection)  # says so where our schema is not there
    row = connection.execute(files.sql("state/become_owner").encode()).fetchone()
    assert row is not None
    if not row["may_apply"]:
        raise errors.PolicyRefused(
            "Policies are for the owner of the tables, and this user is no member of that role. Run it as the owner."
        )


def _run(connection: Connection, to_run: Sequence[PolicyFile], settings: Mapping[str, int], *, allow_data_loss: bool) -> None:
    """Runs files, then gives the roles what they need on what is new; in one transaction."""
    session = {name: str(value) for name, value in settings.items()}
    session["allow_data_loss"] = "on" if allow_data_loss else "off"
    for attempt in range(1, TABLE_LOCK_ATTEMPTS + 1):
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{TABLE_LOCK_SECONDS}s'".encode())
                _set(connection, session)
                for file in to_run:
                    _run_file(connection, file)
                connection.execute(files.sql("grants").encode())
        except psycopg.errors.LockNotAvailable as error:
            if attempt == TABLE_LOCK_ATTEMPTS:
                raise errors.PolicyRefused(
                    f"Another session holds a table that a policy must change: {TABLE_LOCK_ATTEMPTS} attempts found it so. "
                    "Nothing is changed; end that session's transaction, or try again later."
                ) from error
            time.sleep(TABLE_LOCK_PAUSE_SECONDS)
        else:
            return


def _run_file(connection: Connection, file: PolicyFile) -> None:
    _set(connection, {"policy_checksum": file.checksum})
    try:
        connection.execute(file.text.encode())
    except psycopg.errors.LockNotAvailable:
        raise
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise
        advice = (
            " If another user has made that: ALTER … OWNER TO the owner, or sql/roles.sql again, where it was run."
            if isinstance(error, psycopg.errors.InsufficientPrivilege)
            else ""
        )
        raise errors.PolicyRefused(f"{file.name} was refused: {libpq.one_line(error)}{advice}") from error


def _must_fill_rollups(connection: Connection, edition: Edition, settings: Mapping[str, int]) -> bool:
    if edition is not Edition.TIMESCALEDB:
        return False
    row = connection.execute(files.sql("state/rows_past_retention").encode(), (settings["retention_days"],)).fetchone()
    assert row is not None
    return bool(row["found"])


def _set(connection: Connection, session: Mapping[str, str]) -> None:
    connection.execute(files.sql("state/set_policy_settings").encode(), (msgspec.json.encode(session).decode(),))


def edition_of(connection: Connection) -> Edition:
    """The edition that the tables were made on. Raises errors.SchemaBehind if migrations are missing."""
    state = connection.execute(files.sql("state/installation").encode()).fetchone()
    assert state is not None
    applied = (
        {row["migration_id"] for row in connection.execute(files.sql("state/applied_migrations").encode()).fetchall()}
        if state["migrations"]
        else set()
    )
    if missing := set(files.migration_names()) - applied:
        raise errors.SchemaBehind(
            f"The database's schema is behind: {len(missing)} of {len(files.migration_names())} migrations are missing. Run "
            "`ingest migrate`."
        )
    row = connection.execute(files.sql("state/edition").encode()).fetchone()
    assert row is not None
    return Edition(row["recorded"])


@contextmanager
def connected(url: DatabaseUrl, for_whom: str = "Policies are for the owner of the tables.") -> Iterator[Connection]:
    """A connection in UTC, its errors in our words; `for_whom` is said to a user who lacks a right."""
    options = f"{libpq.NO_TIMEOUTS} -c timezone=UTC -c lock_timeout={LOCK_WAIT_SECONDS}s -c search_path=analytics,public"
    try:
        with (
            failures.translated(),
            psycopg.connect(
                libpq.connection_string(url, options=options),
                autocommit=True,
                row_factory=dict_row,
                cursor_factory=psycopg.RawCursor,
            ) as connection,
        ):
            try:
                yield connection
            except psycopg.errors.InsufficientPrivilege as error:
                raise errors.PolicyRefused(f"The database refuses us: {libpq.one_line(error)} {for_whom}") from error
    except (failures.RowsRefused, failures.Transient) as error:
        raise errors.PolicyRefused(f"The database refuses: {error}.") from error


def _pass_on(notice: psycopg.errors.Diagnostic, say: Callable[[str], None]) -> None:
    text = notice.message_primary or ""
    if text.startswith("usage_"):  # the refresh, and not the server's remarks
        say(f"  {text}")


def _variable(setting: str) -> str:
    """The environment variable of a setting, as operators know it."""
    return setting.upper()
