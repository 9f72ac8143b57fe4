"""From a source to batches, without what was acknowledged already."""

from collections.abc import Iterator
from typing import NamedTuple

from ingest import errors
from ingest.client import Batcher, Limits, batch_bytes_max
from ingest.send import items
from ingest.send.items import Format, Item
from ingest.send.journal import Ranges
from ingest.send.source import Source


class Batch(NamedTuple):
    """Items that stand one behind the other in the input."""

    first: int
    """The place of the first one among all items of the input, from 0."""
    texts: list[bytes]
    lines: list[int | None]
    read_bytes: int
    """How much of the input was read then."""
    too_long: Item | None = None
    """An item that can't be sent, and the only one of this batch."""

    @property
    def size_bytes(self) -> int:
        """Of its items."""
        return sum(map(len, self.texts))


class Reader:
    """Reads a source once.

    input_format: None to find out. items_max: of a batch.
    """

    def __init__(self, source: Source, stream: str, limits: Limits, *, items_max: int, input_format: Format | None) -> None:
        self._source = source
        self._envelope = items.ENVELOPES[stream]
        self._batcher = Batcher(min(items_max, limits.batch_items_max), batch_bytes_max(limits))
        self._item_bytes_max = limits.body_bytes_max - len("[]")
        self._format = input_format
        self._chunks: Iterator[bytes] | None = None

    def detect(self) -> Format:
        """How the source is taken apart, for which its beginning is read. Raises errors.InputRefused if it can't be."""
        if self._chunks is None:
            found, self._chunks = items.detect(self._source.name, self._source.chunks(), self._envelope)
            self._format = self._format or found
        assert self._format is not None
        return self._format

    def batches(self, done: Ranges) -> Iterator[Batch]:
        """What is not in `done`, in order.

        Raises errors.InputRefused, behind all batches that could be read, if the source can't be read to its end.
        """
        first = 0
        lines: list[int | None] = []
        refusal: errors.InputRefused | None = None
        found = self._items()
        index = -1
        while True:
            try:
                item = next(found, None)
            except errors.InputRefused as error:
                refusal, item = error, None
            index += 1
            is_kept = item is not None and item.too_long_bytes is None and index not in done
            if not is_kept and (rest := self._batcher.take()):
                yield Batch(first, rest, lines, self._source.read_bytes)
                lines = []
            if item is None:
                break
            if not is_kept:
                if index not in done:
                    yield Batch(index, [], [item.line], self._source.read_bytes, item)
                continue
            if not lines:
                first = index
            full = self._batcher.add(item.text)
            lines.append(item.line)
            if full is not None:
                yield Batch(first, full, lines[: len(full)], self._source.read_bytes)
                lines = lines[len(full) :]
                first += len(full)
        if refusal is not None:
            raise refusal

    def _items(self) -> Iterator[Item]:
        found = self.detect()
        assert self._chunks is not None
        if found == "lines":
            return items.lines(self._chunks, self._item_bytes_max)
        return items.json_values(self._chunks, self._envelope, self._item_bytes_max)
