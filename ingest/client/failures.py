"""Why a batch is not with the service.

SendError
├── Refused    the service, or what stands before it, won't take this from us: sending again changes nothing
└── GivenUp    no answer for as long as one was waited for; sending again later is safe
"""


class SendError(Exception):
    """The root. The message is one line for a person."""


class Refused(SendError):
    """An answer that will be the same next time: the API key, the path, a protocol. `status` is 0 where there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class GivenUp(SendError):
    """Tried for the time that was allowed. What became of the last try is not known: send the same batch again later."""
