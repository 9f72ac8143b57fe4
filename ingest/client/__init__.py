"""Sends items to the service so that each is stored once: batches, compresses, tries again.

It knows nothing of the server but its HTTP, so that it can be read as the model of an SDK in any language. Example:

    import asyncio, json, uuid
    from datetime import UTC, datetime

    from ingest.client import Buffer, Client, SendError


    async def main() -> None:
        def done(items, said):
            if isinstance(said, SendError):
                print(f"{len(items)} events are not stored: {said}")  # keep them, or count them as lost
            else:
                for error in said.errors:
                    print(f"{error.code}: {error.message}")  # a bug of this program: sending again changes nothing

        async with Client(URL, "usage-events", api_key=API_KEY) as client, Buffer(client, done) as buffer:
            for tokens in (120, 4511, 38):
                event = {"event_id": str(uuid.uuid4()), "event_time": datetime.now(UTC).isoformat(), "user_id": "ada",
                         "team": "search", "service": "chat", "provider": "openai", "model": "gpt-4o",
                         "total_tokens": tokens}
                await buffer.add(json.dumps(event).encode())


    asyncio.run(main())

What an SDK must do, and where it is done here:

Identity.     Give each event its `event_id` when it is made, once, and keep it over all tries. That is why sending
              again is safe: an id that is stored with the same content is a duplicate and stored no second time,
              whatever became of the first try. Two events under one id are a conflict; the first one stays. Use UUIDv7
              where you can (RFC 9562, section 5.7; `uuid.uuid7` from Python 3.14 on): ids that grow are the cheapest to
              store.
Batches.      1000 items or 1 MiB, or what has waited for a second (`batching.Batcher`, `buffer.Buffer`). The limits of
              a service are in `GET /` (`Client.limits`). NDJSON, because there an item that is no JSON costs only
              itself.
Compression.  gzip. A low level: events shrink to 1/4.7 at 1.5 µs each; the best level saves an eighth of that for twice
              the time (`batching.GZIP_LEVEL` has the figures).
Tries.        The same batch, as it is, after 408, 429, 500, 502, 503, 504, and where no answer came (`sender.RETRIED`).
              Wait as long as `Retry-After` says (seconds or a date), else 0.5 s, twice as long each time up to 30 s;
              draw a part of it, or all clients come back in one second (`backoff`). Stop at some time: 5 minutes after
              the first failure here. Not after any other 4xx: it will be the same. One of them is 413: send halves.
Answers.      200, or 422 if all items were rejected: what became of each. `accepted + duplicates + conflicts + rejected
              = received`; the same counts are in X-Ingest-Accepted, -Duplicates, -Conflicts and -Rejected, for who does
              not read bodies. Rejected items and conflicts are not to be sent again. `errors` lists the first 100: what
              is behind the last of them can be asked by sending it again in pieces of 100 (`Client.send` does).
              `unknown_event` is the exception: an archive whose event is not stored yet; send it again later.
Memory.       Bounded: when 4 batches are on their way, `Buffer.add` waits. A program that must not wait drops instead,
              and counts what it dropped.
The end.      A program that ends flushes first: `Buffer` does at the end of its `async with`, for up to
              `give_up_after_seconds`. Do so at SIGTERM too, which is what most platforms send some seconds before they
              kill.
"""

from ingest.client.answers import Counts, ItemError, Limits
from ingest.client.batching import Batcher, batch_bytes_max
from ingest.client.buffer import Buffer
from ingest.client.failures import GivenUp, Refused, SendError
from ingest.client.sender import PATHS, Client, Outcome

__all__ = [
    "PATHS",
    "Batcher",
    "Buffer",
    "Client",
    "Counts",
    "GivenUp",
    "ItemError",
    "Limits",
    "Outcome",
    "Refused",
    "SendError",
    "batch_bytes_max",
]
