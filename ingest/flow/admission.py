"""Who is let in: the bound on everything in flight, counted in bytes, and the door that closes while the process drains.

Bytes and not requests, because a request may hold a hundred bytes or MAX_BODY_SIZE of them.
"""

from types import TracebackType

from ingest import errors


class Admission:
    """The bytes of request bodies that this process holds, inflated, until they are answered."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_held = 0
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the door is closed for good."""
        return self._draining

    @property
    def bytes_held(self) -> int:
        """What all the open reservations hold together."""
        return self._bytes_held

    def close(self) -> None:
        """Closes the door: what is inside goes on, nothing more comes in."""
        self._draining = True

    def check_open(self) -> None:
        """Raises errors.Draining while the process stops, errors.QueueFull while nothing more fits."""
        if self._draining:
            raise errors.Draining("The service is stopping and takes no more batches.")
        if self._bytes_held >= self._bytes_max:
            raise self._full()

    def reserve(self) -> "Reservation":
        """An empty reservation for one request, to be used as a context manager. Raises as `check_open`."""
        self.check_open()
        return Reservation(self)

    def grow(self, bytes_more: int) -> None:
        """Counts bytes as held. Raises errors.QueueFull if they don't fit; then they are not counted."""
        if self._bytes_held + bytes_more > self._bytes_max:
            raise self._full()
        self._bytes_held += bytes_more

    def shrink(self, bytes_less: int) -> None:
        """Gives bytes back that `grow` counted."""
        self._bytes_held -= bytes_less

    def _full(self) -> errors.QueueFull:
        return errors.QueueFull(f"The service holds as much as MAX_INFLIGHT_BYTES allows: {self._bytes_max} bytes.")


class Reservation:
    """What one request holds. Leaving the context gives all of it back."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes_held = 0

    def grow(self, bytes_more: int) -> None:
        """Holds more. Raises errors.QueueFull if it doesn't fit."""
        self._admission.grow(bytes_more)
        self._bytes_held += bytes_more

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.shrink(self._bytes_held)
        self._bytes_held = 0
