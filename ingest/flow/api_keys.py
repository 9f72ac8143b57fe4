"""API keys: what a key is, and whether one that was shown may do what it is shown for.

A key is `lai_<id>_<secret>`. The id finds it; of the secret the database has the SHA-256 only. It has 32 random bytes, so
that there is nothing to guess, and a fast hash is right (NIST SP 800-63B, section 5.1.2.2, on look-up secrets).
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from ingest import errors
from ingest.flow.rates import Rates

PREFIX = "lai"
ID_CHARACTERS = 12
SECRET_BYTES = 32

CACHE_SECONDS = 5.0
"""How long the service believes what it read of a key: a key that is revoked works for so long at most, and for as long as
reading takes."""
CACHED_MAX = 10_000
WANTED_MAX = 1_000
"""So many ids are looked up at once, and so many more may wait for that."""

OUTAGE_SECONDS_MAX = 3600.0
"""While the database can't be asked, what is known of a key counts for so long, for reading: whoever watches the service is
to see that its database is away."""
READERS_MAX = 1_000
"""So many keys for reading are known beforehand: whichever worker is asked then, it may never have seen the key."""

_ALPHABET = string.ascii_letters + string.digits
_FORM = re.compile(rf"{PREFIX}_([0-9A-Za-z]{{{ID_CHARACTERS}}})_([0-9A-Za-z_-]{{43}})")


class Scope(StrEnum):
    """What a key is for. One for ingest may read, too."""

    INGEST = "ingest"
    READ = "read"


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key that was not revoked."""

    key_id: str
    number: int
    """Where its requests are counted (ingest.flow.rates)."""
    name: str
    secret_sha256: bytes
    scope: Scope
    teams: frozenset[str] | None
    """The teams whose events it may send; None: all."""
    rate_per_minute: int | None
    """Requests; None: as many as it likes."""
    expires_at: datetime | None
    """Aware; None: never."""


class NewKey(Struct, frozen=True):
    """A key that was just made. `text` is what its owner gets, and nobody can make it again."""

    key_id: str
    text: str
    secret_sha256: bytes


def make() -> NewKey:
    """A new key, from the operating system's randomness."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARACTERS))
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return NewKey(key_id, f"{PREFIX}_{key_id}_{secret}", _hash(secret))


def id_in(text: str) -> str | None:
    """The id of a key that is given whole; None if this is no key."""
    form = _FORM.fullmatch(text)
    return form[1] if form else None


class KeySource(Protocol):
    """Where keys are kept."""

    async def find(self, key_ids: Sequence[str]) -> Mapping[str, ApiKey]:
        """Those of the keys that there are and were not revoked, by id. Raises errors.Unavailable."""
        ...

    async def readers(self, count_max: int) -> Mapping[str, ApiKey]:
        """The newest keys that are for reading and in use, by id. Raises errors.Unavailable."""
        ...


class KeyRing:
    """Checks keys. What it read of one is believed for CACHE_SECONDS; ids that it doesn't know it asks for together.

    clock: seconds, monotonic. now: tells the time, aware.
    """

    def __init__(
        self,
        source: KeySource,
        rates: Rates,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._source = source
        self._rates = rates
        self._clock = clock
        self._now = now
        self._cache: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
        self._readers: tuple[float, Mapping[str, ApiKey]] = (0.0, {})
        self._wanted: dict[str, asyncio.Future[ApiKey | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def check(self, text: str | None, scope: Scope) -> ApiKey:
        """The key, if it may do this now. Its request counts.

        text: the key as it was sent; None if none was.

        Raises errors.KeyMissing, errors.KeyRefused, errors.ScopeForbidden, errors.RateExceeded; errors.Unavailable if the
        database can't be asked.
        """
        if text is None:
            raise errors.KeyMissing("Send an API key: Authorization: Bearer …, or X-API-Key.")
        form = _FORM.fullmatch(text)
        try:
            key = await self._find(form[1]) if form else None
        except errors.Unavailable:
            key = self._remembered(form[1]) if form and scope is Scope.READ else None
            if key is None:
                raise
        # Compared where there is no such key, too: the time says nothing of whether there is.
        is_right = hmac.compare_digest(key.secret_sha256 if key else bytes(32), _hash(form[2] if form else text))
        key = self._check_life(key if is_right else None)
        if scope is Scope.INGEST and key.scope is not Scope.INGEST:
            raise errors.ScopeForbidden(f"This API key is for {key.scope}, not for {scope}.", key.name)
        if key.rate_per_minute is not None and (wait_seconds := self._rates.count(key.number, key.rate_per_minute)):
            told = f"This API key has a rate of {key.rate_per_minute} requests a minute."
            raise errors.RateExceeded(told, key.name, wait_seconds)
        return key

    async def learn_readers(self) -> None:
        """Learns the keys for reading, for a time when the database can't be asked. To be called every now and then.

        Raises errors.Unavailable if it is that time.
        """
        begun = self._clock()
        self._readers = begun + CACHE_SECONDS, await self._source.readers(READERS_MAX)

    async def confirm(self, key: ApiKey) -> None:
        """Checks again a key that `check` gave a while ago: a body may take hours to come. Its rate is not counted again.

        Raises errors.KeyRefused; errors.Unavailable if the database can't be asked.
        """
        self._check_life(await self._find(key.key_id))

    def _check_life(self, key: ApiKey | None) -> ApiKey:
        if key is None:
            raise errors.KeyRefused("This API key is not known, or was revoked.")
        if key.expires_at is not None and key.expires_at <= self._now():
            raise errors.KeyRefused("This API key has expired.", key.name)
        return key

    async def _find(self, key_id: str) -> ApiKey | None:
        until, known = self._cache.get(key_id, (0.0, None))
        if until > self._clock():
            self._cache.move_to_end(key_id)
            return known
        if key_id not in self._wanted:
            if len(self._wanted) >= WANTED_MAX and known is None:  # who made ids up does not keep out whom we know
                raise errors.QueueFull("Too many API keys that are not known here are asked for at once.")
            self._wanted[key_id] = asyncio.get_running_loop().create_future()
        found = self._wanted[key_id]
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="api-keys")
        return await asyncio.shield(found)  # others may wait for it, too

    def _remembered(self, key_id: str) -> ApiKey | None:
        learned_until, readers = self._readers
        until, known = self._cache.get(key_id, (0.0, None))
        if until < learned_until and (known is None or known.scope is Scope.READ):
            until, known = learned_until, readers.get(key_id)
        return known if until + OUTAGE_SECONDS_MAX > self._clock() else None

    async def _ask(self) -> None:
        """Looks up all that is wanted, and what is wanted meanwhile, until nothing is."""
        while wanted := self._wanted:
            self._wanted = {}
            begun = self._clock()
            try:
                keys = await self._source.find(list(wanted))
            except Exception as problem:  # noqa: BLE001 - it is for those who wait
                for found in wanted.values():
                    found.set_exception(problem)
                    found.exception()  # seen, even if all who waited have gone
                continue
            for key_id, found in wanted.items():
                key = keys.get(key_id)
                self._cache[key_id] = (begun + CACHE_SECONDS, key)
                self._cache.move_to_end(key_id)
                found.set_result(key)
            while len(self._cache) > CACHED_MAX:
                self._cache.popitem(last=False)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
