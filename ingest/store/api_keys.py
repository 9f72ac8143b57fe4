"""API keys in the database: made, listed and revoked by commands, found by the service."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from ingest import errors
from ingest.flow import api_keys
from ingest.flow.api_keys import ApiKey, NewKey, Scope
from ingest.settings import DatabaseUrl
from ingest.store import files, policies
from ingest.store.database import Database

_FOR_WHOM = "API keys are made by the owner of the tables."


class KeyEntry(Struct, frozen=True, kw_only=True):
    """A key as its table has it, without the hash. Times are aware."""

    key_id: str
    name: str
    scope: Scope
    teams: Sequence[str] | None
    rate_per_minute: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


def create(
    url: DatabaseUrl,
    *,
    name: str,
    scope: Scope,
    teams: Sequence[str] | None,
    rate_per_minute: int | None,
    expires_at: datetime | None,
) -> tuple[NewKey, KeyEntry]:
    """Makes a key. Raises errors.KeyNotMade if another one has the name; errors.SchemaBehind, errors.DatabaseRefused,
    errors.DatabaseAway."""
    key = api_keys.make()
    with policies.connected(url, _FOR_WHOM) as connection:
        policies.edition_of(connection)  # says so where our schema is not there
        row = connection.execute(
            files.sql("keys/create").encode(),
            (key.key_id, name, key.secret_sha256, scope.value, teams, rate_per_minute, expires_at),
        ).fetchone()
    if row is None:
        raise errors.KeyNotMade(f"There is an API key named {name!r} already. Choose another --name, or revoke that one.")
    return key, msgspec.convert(row, KeyEntry)


def entries(url: DatabaseUrl) -> list[KeyEntry]:
    """All keys, the oldest first. Raises as `create` does of the database."""
    with policies.connected(url, _FOR_WHOM) as connection:
        policies.edition_of(connection)
        return msgspec.convert(connection.execute(files.sql("keys/list").encode()).fetchall(), list[KeyEntry])


def revoke(url: DatabaseUrl, key: str) -> KeyEntry:
    """Ends a key. `key`: its name, its id, or all of it. Raises errors.KeyNotFound; and as `create` does of the database."""
    with policies.connected(url, _FOR_WHOM) as connection:
        policies.edition_of(connection)
        row = connection.execute(files.sql("keys/revoke").encode(), (api_keys.id_in(key) or key,)).fetchone()
    if row is None:
        raise errors.KeyNotFound("There is no API key in use with this name or id. `ingest keys list` shows them.")
    return msgspec.convert(row, KeyEntry)


class StoredKeys:
    """The keys, for the service (ingest.flow.api_keys.KeySource)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_ids: Sequence[str]) -> Mapping[str, ApiKey]:
        """Those of the keys that there are and were not revoked, by id. Raises errors.Unavailable."""
        found = await self._database.ask("keys/find", key_ids)
        return {row["key_id"]: msgspec.convert(dict(row), ApiKey) for row in found}

    async def readers(self, count_max: int) -> Mapping[str, ApiKey]:
        """The newest keys that are for reading and in use, by id. Raises errors.Unavailable."""
        found = await self._database.ask("keys/readers", count_max)
        return {row["key_id"]: msgspec.convert(dict(row), ApiKey) for row in found}

    async def any(self) -> bool:
        """Whether there is one that may send. Raises errors.Unavailable if the database can't be asked."""
        [[there_is]] = await self._database.ask("keys/any")
        return bool(there_is)

    async def check_any(self) -> None:
        """Raises errors.NoKeys if there is none that may send; errors.Unavailable if the database can't be asked."""
        if not await self.any():
            raise errors.NoKeys(
                "An API key is required, and there is none that may send. Make one: `ingest keys create --name …`. Or set "
                "AUTH_REQUIRED=false, and everybody who reaches this address may send."
            )
