"""Items into the database as the service stores them, but for the check of their age and the queue; and a database that is
pickier than it is."""

from collections.abc import Iterable, Sequence
from typing import Any

from ingest.events import USAGE_EVENTS, Stream, UsageEvent
from ingest.flow.batch import StoreApart, Stored
from ingest.settings import DatabaseUrl
from ingest.store import rows
from ingest.store.writer import BatchWriter
from tests import samples, servers


async def store(writer: BatchWriter, stream: Stream, items: Sequence[Any], *, strict: bool = False) -> Stored:
    """One batch, in a group by itself."""
    [stored] = await writer.store_group(stream, [rows.encode(stream, items)], strict=strict)
    return stored


async def store_group(writer: BatchWriter, stream: Stream, batches: Sequence[Sequence[Any]]) -> list[Stored]:
    """Several batches in one group, or apart if need be: what became of each."""
    try:
        return list(await writer.store_group(stream, [rows.encode(stream, items) for items in batches], strict=False))
    except StoreApart:
        return [await store(writer, stream, items) for items in batches]


async def make_cautious(writer: BatchWriter) -> None:
    """Has the writer go the way of any ids for its next groups (CAUTIOUS_GROUPS). Leaves an event, of the team `before`."""
    before = samples.event(team="before")
    await store(writer, USAGE_EVENTS, [before])
    await store(writer, USAGE_EVENTS, [before])


# Nothing that our rules let through is refused by itself.
REFUSE_LISTED = """
    CREATE TABLE public.refused (event_id uuid PRIMARY KEY);
    GRANT SELECT ON public.refused TO PUBLIC;
    CREATE FUNCTION public.refuse_listed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM public.refused WHERE event_id = NEW.event_id) THEN
            RAISE EXCEPTION 'not this one' USING ERRCODE = 'data_exception';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse_listed BEFORE INSERT ON analytics.usage_event_ids
        FOR EACH ROW EXECUTE FUNCTION public.refuse_listed();
"""

FORBIDDING = {
    "constraint": "ALTER TABLE analytics.usage_events ADD CHECK (model <> 'forbidden') NOT VALID",
    "trigger": "CREATE FUNCTION public.say_no() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN IF NEW.model = 'forbidden' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;"
    " CREATE TRIGGER say_no BEFORE INSERT ON analytics.usage_events FOR EACH ROW EXECUTE FUNCTION public.say_no()",
    "unique index": "CREATE UNIQUE INDEX ON analytics.usage_events (event_time, model) WHERE model = 'forbidden'",
}
"""Rules that a DBA may make, by their kind; the last one refuses the second `forbidden` event of one time."""


def refuse(database_url: DatabaseUrl, events: Iterable[UsageEvent]) -> None:
    """From now on the database refuses these events, with an error of SQLSTATE class 22."""
    servers.execute(database_url, REFUSE_LISTED)
    for item in events:
        servers.execute(database_url, f"INSERT INTO public.refused VALUES ('{item.event_id}')")
