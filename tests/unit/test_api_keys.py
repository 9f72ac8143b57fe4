"""Keys are found, compared, believed for a while and no longer; and never more of them than fit."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ingest import errors
from ingest.flow import api_keys
from ingest.flow.api_keys import ApiKey, KeyRing, NewKey, Scope
from ingest.flow.rates import Rates

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Source:
    """Keys in memory; remembers what it was asked for (ingest.flow.api_keys.KeySource)."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.asked: list[list[str]] = []
        self.problem: Exception | None = None
        self.delay_seconds = 0.0

    def add(self, new: NewKey, **fields: Any) -> str:
        """Keeps a key; returns its text."""
        self.keys[new.key_id] = ApiKey(
            **{
                "key_id": new.key_id,
                "number": len(self.keys),
                "name": "chat",
                "secret_sha256": new.secret_sha256,
                "scope": Scope.INGEST,
                "teams": None,
                "rate_per_minute": None,
                "expires_at": None,
                **fields,
            }
        )
        return new.text

    async def find(self, key_ids: Sequence[str]) -> Mapping[str, ApiKey]:
        self.asked.append(list(key_ids))
        await asyncio.sleep(self.delay_seconds)
        if self.problem is not None:
            raise self.problem
        return {key_id: self.keys[key_id] for key_id in key_ids if key_id in self.keys}

    async def readers(self, count_max: int) -> Mapping[str, ApiKey]:
        if self.problem is not None:
            raise self.problem
        newest = [key for key in reversed(self.keys.values()) if key.scope is Scope.READ]
        return {key.key_id: key for key in newest[:count_max]}


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(source: Source, clock: Clock) -> KeyRing:
    return KeyRing(source, Rates(clock=clock), clock=clock, now=lambda: NOW + timedelta(seconds=clock.seconds))


def test_keys_have_a_form_and_are_never_the_same() -> None:
    made = [api_keys.make() for _ in range(100)]

    assert len({key.text for key in made} | {key.key_id for key in made}) == 200
    for key in made:
        assert key.text.startswith(f"lai_{key.key_id}_")
        assert api_keys.id_in(key.text) == key.key_id
        assert len(key.secret_sha256) == 32
    assert api_keys.id_in("chat") is None


async def test_a_key_is_known_by_its_secret(ring: KeyRing, source: Source) -> None:
    text = source.add(api_keys.make(), name="ours")

    assert (await ring.check(text, Scope.INGEST)).name == "ours"
    for wrong in (text[:-1], text + "A", text[:-1] + ("A" if text[-1] != "A" else "B"), text.upper(), "", "lai__", "ü" * 60):
        with pytest.raises(errors.KeyRefused):
            await ring.check(wrong, Scope.INGEST)


async def test_what_is_no_key_is_not_looked_up(ring: KeyRing, source: Source) -> None:
    for text in ("hello", "lai_short_secret", "x" * 100_000):
        with pytest.raises(errors.KeyRefused):
            await ring.check(text, Scope.READ)
    with pytest.raises(errors.KeyMissing):
        await ring.check(None, Scope.READ)

    assert source.asked == []


async def test_a_key_is_looked_up_once_and_believed_for_a_while(ring: KeyRing, source: Source, clock: Clock) -> None:
    new = api_keys.make()
    text = source.add(new)
    await ring.check(text, Scope.INGEST)
    del source.keys[new.key_id]

    clock.seconds = api_keys.CACHE_SECONDS - 0.1
    await ring.check(text, Scope.INGEST)
    assert len(source.asked) == 1

    clock.seconds = api_keys.CACHE_SECONDS + 0.1
    with pytest.raises(errors.KeyRefused):
        await ring.check(text, Scope.INGEST)


async def test_a_key_that_does_not_exist_is_looked_up_once_too(ring: KeyRing, source: Source) -> None:
    text = api_keys.make().text

    for _ in range(3):
        with pytest.raises(errors.KeyRefused):
            await ring.check(text, Scope.INGEST)

    assert len(source.asked) == 1


async def test_keys_that_are_wanted_at_once_are_asked_for_together(ring: KeyRing, source: Source) -> None:
    source.delay_seconds = 0.01
    texts = [source.add(api_keys.make()) for _ in range(20)]

    found = await asyncio.gather(*(ring.check(text, Scope.INGEST) for text in texts * 2))

    assert {key.key_id for key in found} == source.keys.keys()
    assert len(source.asked) <= 2
    assert sorted(key_id for asked in source.asked for key_id in asked) == sorted(source.keys)


async def test_who_gives_up_takes_nothing_from_the_others(ring: KeyRing, source: Source) -> None:
    source.delay_seconds = 0.01
    text = source.add(api_keys.make())
    first = asyncio.create_task(ring.check(text, Scope.INGEST))
    second = asyncio.create_task(ring.check(text, Scope.INGEST))
    await asyncio.sleep(0)

    first.cancel()

    assert (await second).key_id in source.keys


async def test_a_source_that_is_away_is_no_verdict_on_a_key(ring: KeyRing, source: Source) -> None:
    text = source.add(api_keys.make())
    source.problem = errors.DatabaseAway("away")
    with pytest.raises(errors.DatabaseAway):
        await ring.check(text, Scope.INGEST)

    source.problem = None

    assert (await ring.check(text, Scope.INGEST)).key_id in source.keys


async def test_no_more_are_kept_than_fit(ring: KeyRing, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "CACHED_MAX", 2)
    first, second, third = (source.add(api_keys.make()) for _ in range(3))
    for text in (first, second, first, third):  # the second is the one that was not used for longest
        await ring.check(text, Scope.INGEST)
    source.asked.clear()

    await ring.check(first, Scope.INGEST)
    await ring.check(third, Scope.INGEST)
    assert source.asked == []
    await ring.check(second, Scope.INGEST)
    assert len(source.asked) == 1


async def test_no_more_are_looked_up_than_may_wait(ring: KeyRing, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "WANTED_MAX", 5)
    source.delay_seconds = 0.01

    answers = await asyncio.gather(
        *(ring.check(api_keys.make().text, Scope.INGEST) for _ in range(20)), return_exceptions=True
    )

    assert {type(answer) for answer in answers} == {errors.KeyRefused, errors.QueueFull}
    assert max(map(len, source.asked)) <= 5


async def test_ids_that_were_made_up_keep_out_nobody_who_is_known(
    ring: KeyRing, source: Source, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = source.add(api_keys.make())
    await ring.check(text, Scope.INGEST)
    monkeypatch.setattr(api_keys, "WANTED_MAX", 5)
    source.delay_seconds = 0.01
    clock.seconds = 2 * api_keys.CACHE_SECONDS
    made_up = [asyncio.create_task(ring.check(api_keys.make().text, Scope.INGEST)) for _ in range(20)]
    await asyncio.sleep(0)

    assert (await ring.check(text, Scope.INGEST)).secret_sha256

    answers = await asyncio.gather(*made_up, return_exceptions=True)
    assert errors.QueueFull in {type(answer) for answer in answers}


async def test_a_key_is_confirmed_while_it_lives(ring: KeyRing, source: Source, clock: Clock) -> None:
    new = api_keys.make()
    key = await ring.check(source.add(new, rate_per_minute=1, expires_at=NOW + timedelta(seconds=60)), Scope.INGEST)

    await ring.confirm(key)  # which is no request more
    clock.seconds = 61.0
    with pytest.raises(errors.KeyRefused, match="expired"):
        await ring.confirm(key)
    del source.keys[new.key_id]
    clock.seconds = 2.0 * 61
    with pytest.raises(errors.KeyRefused, match="revoked"):
        await ring.confirm(key)


async def test_a_key_ends_when_it_was_to(ring: KeyRing, source: Source, clock: Clock) -> None:
    text = source.add(api_keys.make(), expires_at=NOW + timedelta(seconds=1))
    await ring.check(text, Scope.INGEST)

    clock.seconds = 1.0

    with pytest.raises(errors.KeyRefused, match="expired"):
        await ring.check(text, Scope.INGEST)


async def test_a_key_for_reading_is_not_for_sending_and_one_for_sending_may_read(ring: KeyRing, source: Source) -> None:
    reading, sending = source.add(api_keys.make(), scope=Scope.READ), source.add(api_keys.make())

    await ring.check(reading, Scope.READ)
    await ring.check(sending, Scope.READ)
    with pytest.raises(errors.ScopeForbidden):
        await ring.check(reading, Scope.INGEST)


async def test_only_a_right_key_uses_up_its_rate(ring: KeyRing, source: Source) -> None:
    new = api_keys.make()
    text = source.add(new, rate_per_minute=1)
    for _ in range(5):
        with pytest.raises(errors.KeyRefused):
            await ring.check(f"lai_{new.key_id}_{'A' * 43}", Scope.INGEST)

    await ring.check(text, Scope.INGEST)
    with pytest.raises(errors.RateExceeded) as exceeded:
        await ring.check(text, Scope.INGEST)

    assert exceeded.value.wait_seconds == pytest.approx(60)


async def test_while_the_database_is_away_a_key_for_reading_reads_that_was_never_seen(
    ring: KeyRing, source: Source, clock: Clock
) -> None:
    reader, sender = source.add(api_keys.make(), scope=Scope.READ), source.add(api_keys.make())
    revoked = api_keys.make()
    revoked_text = source.add(revoked, scope=Scope.READ)
    await ring.check(revoked_text, Scope.READ)
    del source.keys[revoked.key_id]
    clock.seconds = 60
    await ring.learn_readers()
    source.problem = errors.DatabaseAway("away")

    with pytest.raises(errors.Unavailable):
        await ring.learn_readers()
    assert (await ring.check(reader, Scope.READ)).scope is Scope.READ
    for text in (revoked_text, sender):
        with pytest.raises(errors.Unavailable):
            await ring.check(text, Scope.READ)
    clock.seconds += api_keys.CACHE_SECONDS + api_keys.OUTAGE_SECONDS_MAX + 1
    with pytest.raises(errors.Unavailable):
        await ring.check(reader, Scope.READ)


async def test_while_the_database_is_away_a_key_that_is_known_reads_for_an_hour(
    ring: KeyRing, source: Source, clock: Clock
) -> None:
    known, other = source.add(api_keys.make(), scope=Scope.READ), source.add(api_keys.make(), scope=Scope.READ)
    sender = source.add(api_keys.make())
    await ring.check(known, Scope.READ)
    await ring.check(sender, Scope.INGEST)
    source.problem = errors.DatabaseAway("away")

    clock.seconds = api_keys.CACHE_SECONDS + 1
    assert (await ring.check(known, Scope.READ)).key_id in known
    for text, scope in ((other, Scope.READ), (sender, Scope.INGEST)):
        with pytest.raises(errors.DatabaseAway):
            await ring.check(text, scope)
    with pytest.raises(errors.KeyRefused):
        await ring.check(known[:-1] + ("A" if known[-1] != "A" else "B"), Scope.READ)

    clock.seconds = api_keys.CACHE_SECONDS + api_keys.OUTAGE_SECONDS_MAX + 1
    with pytest.raises(errors.DatabaseAway):
        await ring.check(known, Scope.READ)
