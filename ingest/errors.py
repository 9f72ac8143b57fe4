"""Everything that can go wrong, as one tree. It knows no HTTP: `ingest.web.problems` has the table of codes and statuses.

IngestError
├── SetupError              the service can't start, or can't go on, until a person acts
│   ├── SettingInvalid
│   ├── PortTaken
│   ├── EmbeddedUnavailable
│   ├── DatabaseRefused
│   ├── PoolerUnsupported
│   ├── PolicyRefused
│   ├── NoKeys
│   ├── KeyNotMade
│   ├── KeyNotFound
│   ├── InputRefused
│   ├── SchemaBehind
│   ├── SchemaTooNew
│   └── EditionChanged
├── AccessDenied            whoever asks may not do this
│   ├── KeyMissing
│   ├── KeyRefused
│   ├── ScopeForbidden
│   └── RateExceeded
├── RequestRefused          this request can't be taken as it is; sending it again changes nothing
│   ├── HeadUnreadable
│   ├── HeadTimeout
│   ├── HeadTooLarge
│   ├── TargetTooLong
│   ├── VersionUnsupported
│   ├── FeatureUnsupported
│   ├── BodyUnreadable
│   ├── BodyTimeout
│   ├── EncodingUnsupported
│   ├── TypeUnsupported
│   └── LimitExceeded
├── Unavailable             nothing is stored; the same request may be sent again soon
│   ├── Draining
│   ├── QueueFull
│   ├── ConnectionsFull
│   ├── DatabaseAway
│   ├── DatabaseBusy
│   ├── DecoderGone
│   └── NotReady
└── ClientGone              the client hung up before its request was whole
"""

from typing import ClassVar


class IngestError(Exception):
    """The root. `code` is the stable name that a program may compare; the message is a sentence for a person."""

    code: ClassVar[str] = "internal_error"


class SetupError(IngestError):
    """The service can't start, or can't go on, until a person acts. The message is one line: what, why, what to do."""

    code = "setup_error"


class SettingInvalid(SetupError):
    """A setting holds what it must not. The message names the variable, what it holds and what is allowed."""

    code = "setting_invalid"


class PortTaken(SetupError):
    """Another program listens on this address."""

    code = "port_taken"


class EmbeddedUnavailable(SetupError):
    """There is no DB_URL, and the embedded PostgreSQL is not installed or does not start."""

    code = "embedded_unavailable"


class DatabaseRefused(SetupError):
    """The database answers, but not to us: wrong password, no such database, too old, a right that is missing."""

    code = "database_refused"


class PoolerUnsupported(SetupError):
    """Between us and PostgreSQL stands a pooler that gives each transaction another session."""

    code = "pooler_unsupported"


class PolicyRefused(SetupError):
    """A policy is not applied, nor any that would have been applied with it: it would delete rows that are kept now, or the
    database did not take it."""

    code = "policy_refused"


class NoKeys(SetupError):
    """An API key is required, and there is none: nobody could send anything."""

    code = "no_keys"


class KeyNotMade(SetupError):
    """The API key can't be made so: there is one of this name already, it is for too many teams, or nobody would see it."""

    code = "key_not_made"


class KeyNotFound(SetupError):
    """There is no such API key in use."""

    code = "key_not_found"


class InputRefused(SetupError):
    """What is to be sent can't be read, or is not what a part of it was sent from before."""

    code = "input_refused"


class SchemaBehind(SetupError):
    """The schema lacks migrations that this program needs."""

    code = "schema_behind"


class SchemaTooNew(SetupError):
    """The schema has migrations that this program doesn't know: a newer release was here."""

    code = "schema_too_new"


class EditionChanged(SetupError):
    """The database was set up as one edition and answers as another."""

    code = "edition_changed"


class AccessDenied(IngestError):
    """Whoever asks may not do this, or not now. `key`: the name of the API key, if the one that was sent is known."""

    code = "access_denied"

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class KeyMissing(AccessDenied):
    """An API key is required, and none was sent."""

    code = "key_missing"


class KeyRefused(AccessDenied):
    """The API key is not known, was revoked, or has expired."""

    code = "key_refused"


class ScopeForbidden(AccessDenied):
    """The API key is not for this."""

    code = "scope_forbidden"


class RateExceeded(AccessDenied):
    """The API key was used more often than its rate allows. `wait_seconds`: after which the next request is due."""

    code = "rate_exceeded"

    def __init__(self, message: str, key: str, wait_seconds: float) -> None:
        super().__init__(message, key)
        self.wait_seconds = wait_seconds


class RequestRefused(IngestError):
    """This request can't be taken as it is; sending it again changes nothing."""

    code = "bad_request"


class HeadUnreadable(RequestRefused):
    """The bytes are no HTTP, or may be read in more than one way; where a request ends must not be a guess."""

    code = "unreadable_head"


class HeadTimeout(RequestRefused):
    """The head of the request was not whole in time."""

    code = "head_timeout"


class HeadTooLarge(RequestRefused):
    """The head, or what stands behind the body like one, has more bytes or more fields than are taken."""

    code = "head_too_large"


class TargetTooLong(RequestRefused):
    """The request's target is longer than any that leads somewhere."""

    code = "target_too_long"


class VersionUnsupported(RequestRefused):
    """The request is of another version of HTTP than 1.1 and 1.0."""

    code = "unsupported_version"


class FeatureUnsupported(RequestRefused):
    """The request asks for a part of HTTP that we don't have: a method, or a transfer coding beside `chunked`."""

    code = "not_implemented"


class BodyUnreadable(RequestRefused):
    """The envelope can't be read: not the encoding it claims, cut short, not UTF-8, not JSON."""

    code = "unreadable_body"


class BodyTimeout(RequestRefused):
    """The body stalled for longer than BODY_TIMEOUT_SECONDS, or came too slowly on the whole."""

    code = "body_timeout"


class EncodingUnsupported(RequestRefused):
    """The Content-Encoding is none of those we inflate."""

    code = "unsupported_encoding"


class TypeUnsupported(RequestRefused):
    """The Content-Type is none of those we read."""

    code = "unsupported_type"


class LimitExceeded(RequestRefused):
    """The body is past a limit. `name` is the setting, `limit` its value, `seen` what came before we stopped looking."""

    code = "limit_exceeded"

    def __init__(self, name: str, limit: int, seen: int, unit: str) -> None:
        super().__init__(f"The body is past {name}: {limit} {unit} are allowed, at least {seen} came.")
        self.name = name
        self.limit = limit
        self.seen = seen
        self.unit = unit


class Unavailable(IngestError):
    """Nothing of the batch is stored; the same request may be sent again soon."""

    code = "unavailable"


class Draining(Unavailable):
    """The process is stopping: it finishes what it took and takes no more."""

    code = "draining"


class QueueFull(Unavailable):
    """As much is in flight as the limits allow."""

    code = "queue_full"


class ConnectionsFull(Unavailable):
    """All connections that are allowed are open, and a request is in work on each."""

    code = "too_many_connections"


class DatabaseAway(Unavailable):
    """The database does not answer, or went away in the middle."""

    code = "database_unavailable"


class DatabaseBusy(Unavailable):
    """Another transaction holds what this one needs, and did not end in time."""

    code = "database_busy"


class DecoderGone(Unavailable):
    """The process that decodes large bodies ended over this one, or took too long."""

    code = "decoder_unavailable"


class NotReady(Unavailable):
    """The process waits for its database: not reached yet, or its schema is behind."""

    code = "not_ready"


class ClientGone(IngestError):
    """The client hung up before its request was whole; there is nobody left to answer."""

    code = "client_gone"
