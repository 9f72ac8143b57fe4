"""The bytes of a file or of standard input, inflated as they are read, and what tells one file from another."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct
from zlib_ng import zlib_ng

from ingest import errors

STANDARD_INPUT = "-"
CHUNK_BYTES = 256 * 1024
HEAD_BYTES = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 31  # zlib's windowBits of a gzip wrapper


class Identity(Struct, frozen=True):
    """Which file this is. One that was changed is another: places in it mean something else."""

    size_bytes: int
    modified_ns: int
    head_sha256: str
    """Of the first HEAD_BYTES."""


class Source:
    """An open file. `read_bytes` counts what was read of it, as it stands on the disk.

    Raises errors.InputRefused if it can't be opened, or another process sends it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.read_bytes = 0
        self.size_bytes: int | None = None
        self.identity: Identity | None = None
        try:
            # Standard input without a buffer of its own: a thread may wait in it when the program ends.
            self._file: BinaryIO = open(  # noqa: SIM115 - closed by close
                0 if name == STANDARD_INPUT else name, "rb", buffering=0, closefd=name != STANDARD_INPUT
            )
        except OSError as error:
            raise errors.InputRefused(f"{name} can't be read: {error.strerror or error}.") from None
        if name != STANDARD_INPUT and Path(name).is_file():
            try:
                self.identity = self._identify()
            except errors.InputRefused:
                self.close()
                raise
            self.size_bytes = self.identity.size_bytes

    @property
    def shown(self) -> str:
        """Its name for a person."""
        return "standard input" if self.name == STANDARD_INPUT else self.name

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def chunks(self) -> Iterator[bytes]:
        """What is in it, inflated if it begins as gzip does, in pieces of up to about CHUNK_BYTES.

        Raises errors.InputRefused if it can't be read to its end.
        """
        first = b""
        while len(first) < len(_GZIP_MAGIC) and (more := self._read()):
            first += more
        raw = self._raw(first)
        return self._inflated(raw) if first.startswith(_GZIP_MAGIC) else raw

    def _raw(self, first: bytes) -> Iterator[bytes]:
        chunk = first
        while chunk:
            yield chunk
            chunk = self._read()

    def _read(self) -> bytes:
        try:
            chunk = self._file.read(CHUNK_BYTES)
        except OSError as error:
            raise errors.InputRefused(f"{self.shown} can't be read on: {error.strerror or error}.") from None
        self.read_bytes += len(chunk)
        return chunk

    def check_unchanged(self) -> None:
        """Raises errors.InputRefused if the file is not what it was when it was opened."""
        if self.identity is not None and self._identify() != self.identity:
            raise errors.InputRefused(
                f"{self.name} was changed while it was sent. To send it as it is now, which stores nothing twice: --restart."
            )

    def _inflated(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        """Any number of gzip members (RFC 1952, section 2.2); zeros behind the last one are padding."""
        inflater = zlib_ng.decompressobj(_GZIP)
        try:
            for chunk in raw:
                data = chunk
                while data:
                    if inflater.eof:
                        data = data.lstrip(b"\0")
                        if not data:
                            break
                        inflater = zlib_ng.decompressobj(_GZIP)
                    if text := inflater.decompress(data, CHUNK_BYTES):
                        yield text
                    data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if not inflater.eof:
                raise errors.InputRefused(f"{self.shown} ends in the middle of its gzip data: it was cut short.")
        except zlib_ng.error as error:  # type: ignore[misc]
            raise errors.InputRefused(f"{self.shown} has gzip data that is damaged: {error}.") from None

    def _identify(self) -> Identity:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(self._file.fileno())
            head = os.pread(self._file.fileno(), HEAD_BYTES, 0)
        except BlockingIOError:
            raise errors.InputRefused(f"{self.name} is being sent by another `ingest send`.") from None
        except OSError as error:
            raise errors.InputRefused(f"{self.name} can't be read: {error.strerror or error}.") from None
        return Identity(status.st_size, status.st_mtime_ns, hashlib.sha256(head).hexdigest())
