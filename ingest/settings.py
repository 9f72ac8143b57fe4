"""Every setting, read once from the environment and from `.env`; the environment wins.

A field's name carries its unit; its `name=` is the variable that operators write. README.md has the table, and a test
compares the two.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
from dotenv import dotenv_values
from msgspec import Meta, field

from ingest import errors

MIB = 1024 * 1024

Count = Annotated[int, Meta(ge=1, le=100_000)]
Bytes = Annotated[int, Meta(ge=1024, le=256 * MIB)]
Days = Annotated[int, Meta(ge=1, le=36_500)]

PASSWORD_BYTES_MAX = 4096
"""What a password file may hold: by far more than any password, so that a wrong path does no harm."""


_ORIGIN = r"(?:\*|https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?)"
Origins = Annotated[str, Meta(pattern=rf"^{_ORIGIN}(?:\s*,\s*{_ORIGIN})*$")]


class DatabaseUrl:
    """A PostgreSQL connection URL that shows its password to nobody who prints it.

    `postgresql+asyncpg://` (and any other SQLAlchemy driver) is taken as `postgresql://`.

    Raises ValueError, without the value, if it is no such URL.
    """

    __slots__ = ("_url",)

    def __init__(self, text: str) -> None:
        scheme, separator, rest = text.strip().partition("://")
        if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
            raise ValueError("not a postgresql:// URL")
        if re.search(r"\s|%(?![0-9a-fA-F]{2})", rest):
            raise ValueError("white space and % must be percent-encoded")
        # A password with one of / ? # @ that is not percent-encoded moves the parts, and would be shown as a host or a path.
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        if "@" in rest[len(authority) :] or "#" in rest or authority.count("@") > 1:
            raise ValueError("a password must be percent-encoded")
        # SQLAlchemy's asyncpg dialect calls `ssl` what both drivers know as `sslmode`.
        self._url = re.sub(r"(?<=[?&])ssl=", "sslmode=", f"postgresql://{rest}")
        try:
            _ = urlsplit(self._url).port
        except ValueError:
            raise ValueError("no such host or port") from None  # without urllib's words, which quote it

    def reveal(self) -> str:
        """The URL as the driver needs it, password and all."""
        return self._url

    @property
    def has_password(self) -> bool:
        """Whether the URL itself has a password, before its host or among its parameters."""
        parts = urlsplit(self._url)
        return bool(parts.password) or "password" in parse_qs(parts.query)

    def with_password(self, password: str) -> "DatabaseUrl":
        """The same URL with this password. As a parameter it may stand in any URL, also in one without a user or a host."""
        separator = "&" if urlsplit(self._url).query else "" if self._url.endswith("?") else "?"
        return DatabaseUrl(f"{self._url}{separator}password={quote(password, safe='')}")

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        user = f"{parts.username}:***@" if parts.password else f"{parts.username}@" if parts.username else ""
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        port = f":{parts.port}" if parts.port else ""
        return f"postgresql://{user}{host}{port}{parts.path}"

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may choose. The defaults are good for a start; `load` reads and checks the variables."""

    db_url: DatabaseUrl | None = field(name="DB_URL", default=None)
    db_password_file: str | None = field(name="DB_PASSWORD_FILE", default=None)
    db_pool_connections: Annotated[int, Meta(ge=1, le=500)] = field(name="DB_POOL_SIZE", default=10)
    db_timeout_seconds: Annotated[int, Meta(ge=1, le=600)] = field(name="DB_TIMEOUT_SECONDS", default=30)
    data_dir: str | None = field(name="INGEST_DATA_DIR", default=None)

    batch_items_max: Count = field(name="MAX_BULK_SIZE", default=1000)
    compressed_bytes_max: Bytes = field(name="MAX_GZIP_SIZE", default=10 * MIB)
    body_bytes_max: Bytes = field(name="MAX_BODY_SIZE", default=64 * MIB)
    body_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = field(name="BODY_TIMEOUT_SECONDS", default=15)
    clock_skew_seconds_max: Annotated[int, Meta(ge=0, le=86_400)] = field(name="MAX_CLOCK_SKEW_SECONDS", default=300)
    inflight_bytes_max: Annotated[int, Meta(ge=MIB, le=64 * 1024 * MIB)] = field(name="MAX_INFLIGHT_BYTES", default=256 * MIB)
    queued_rows_max: Annotated[int, Meta(ge=1, le=10_000_000)] = field(name="MAX_QUEUED_ROWS", default=200_000)
    queue_timeout_seconds: Annotated[float, Meta(gt=0, le=600)] = field(name="QUEUE_TIMEOUT_SECONDS", default=5)
    connections_max: Annotated[int, Meta(ge=1, le=100_000)] = field(name="MAX_CONNECTIONS", default=4096)
    shutdown_seconds: Annotated[int, Meta(ge=1, le=600)] = field(name="SHUTDOWN_SECONDS", default=20)

    chunk_interval_hours: Annotated[int, Meta(ge=1, le=8760)] = field(name="CHUNK_TIME_INTERVAL_HOURS", default=24)
    compression_after_days: Days = field(name="COMPRESSION_AFTER_DAYS", default=7)
    retention_days: Days = field(name="RETENTION_DAYS", default=180)
    dedupe_window_days: Days | None = field(name="DEDUPE_WINDOW_DAYS", default=None)
    auth_required: bool | None = field(name="AUTH_REQUIRED", default=None)
    cors_allow_origins: Origins | None = field(name="CORS_ALLOW_ORIGINS", default=None)
    maintenance: Literal["on", "off"] = field(name="MAINTENANCE", default="on")
    log_level: Literal["debug", "info", "warning", "error"] = field(name="LOG_LEVEL", default="info")
    log_format: Literal["auto", "text", "json"] = field(name="LOG_FORMAT", default="auto")

    @property
    def event_age_days_max(self) -> int:
        """How old an event may be: what the retention keeps and the ledger still remembers."""
        return min(self.retention_days, self.dedupe_window_days or self.retention_days)

    @property
    def cors_origins(self) -> list[str]:
        """The origins whose pages may call us (RFC 6454); `*` is all."""
        return [origin.strip() for origin in (self.cors_allow_origins or "").split(",") if origin.strip()]

    @property
    def policy_settings(self) -> dict[str, int]:
        """What the policy files of `sql/policies` read, by the name they read it by."""
        return {
            "chunk_time_interval_hours": self.chunk_interval_hours,
            "compression_after_days": self.compression_after_days,
            "retention_days": self.retention_days,
            "dedupe_window_days": self.dedupe_window_days or self.retention_days,
        }


def load(environ: Mapping[str, str] | None = None, dotenv: Path | None = None) -> Settings:
    """The settings from `environ` (default: the process's) over the file `dotenv` (default: `.env` here, if there is one).

    A variable that is set to nothing counts as not set. What the file of DB_PASSWORD_FILE holds stands in `db_url` then.

    Raises errors.SettingInvalid: one line that names every variable with a bad value, what it holds and what is allowed.
    """
    environ = os.environ if environ is None else environ
    from_file = _read_file(Path(".env") if dotenv is None else dotenv)
    values: dict[str, Any] = {}
    problems = []
    for info in msgspec.structs.fields(Settings):
        name = info.encode_name
        text = environ.get(name, "").strip() or (from_file.get(name) or "").strip()
        if text:
            try:
                values[info.name] = _read(name, text, info.type)
            except errors.SettingInvalid as problem:
                problems.append(str(problem))
    if problems:
        raise errors.SettingInvalid(" ".join(problems))
    settings = Settings(**values)
    if settings.db_password_file is not None:
        db_url = _with_password_of(settings.db_url, Path(settings.db_password_file))
        settings = msgspec.structs.replace(settings, db_url=db_url)
    if settings.compression_after_days > settings.retention_days:
        if "compression_after_days" in values:
            raise errors.SettingInvalid(
                f"COMPRESSION_AFTER_DAYS={settings.compression_after_days} is not allowed: it must be at most "
                f"RETENTION_DAYS, which is {settings.retention_days}."
            )
        settings = msgspec.structs.replace(settings, compression_after_days=settings.retention_days)
    if settings.body_bytes_max > settings.inflight_bytes_max:
        raise errors.SettingInvalid(
            f"MAX_BODY_SIZE={settings.body_bytes_max} is not allowed: it must be at most MAX_INFLIGHT_BYTES, which is "
            f"{settings.inflight_bytes_max}."
        )
    return settings


def _read_file(path: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(path, interpolate=False) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SettingInvalid(
            f"{path} can't be read: {type(error).__name__}. It must be UTF-8 text that "
            "this user may read: correct it or its rights."
        ) from None


def _with_password_of(db_url: DatabaseUrl | None, path: Path) -> DatabaseUrl:
    """`db_url` with the password that is in the file: all of it but the line's end. Nothing of it is ever in a message."""

    def refused(reason: str) -> errors.SettingInvalid:
        return errors.SettingInvalid(f"DB_PASSWORD_FILE={str(path)!r} is not allowed: {reason}.")

    if db_url is None:
        raise refused("it is the password for DB_URL, which is not set")
    if db_url.has_password:
        raise refused("DB_URL has a password, too; remove one of them")
    try:
        # Not whole, whatever it is: the path may be that of a disk.
        with path.open("rb") as file:
            content = file.read(PASSWORD_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such path"
        raise refused(f"the file can't be read ({reason}); the user that runs this must be allowed to read it") from None
    if len(content) > PASSWORD_BYTES_MAX:
        raise refused(f"the file holds more than {PASSWORD_BYTES_MAX} bytes, which is no password")
    try:
        password = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise refused("the file is not UTF-8 text") from None
    if not password:
        raise refused("the file is empty")
    if re.search(r"[\n\r\0]", password):
        raise refused("the file has more than one line, or a NUL; it must hold the password and nothing else")
    return db_url.with_password(password)


def _read(name: str, text: str, kind: Any) -> Any:
    if name == "DB_URL":
        try:
            return DatabaseUrl(text)
        except ValueError:
            raise errors.SettingInvalid(
                f"DB_URL={_scheme_of(text)!r} is not allowed: it must be postgresql://user:password@host:port/database, "
                "a password percent-encoded."
            ) from None
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]  # no text means None
    try:
        return msgspec.convert(text.lower() if get_origin(kind) is Literal else text, kind, strict=False)
    except msgspec.ValidationError:
        raise errors.SettingInvalid(f"{name}={text!r} is not allowed: it must be {_allowed(kind)}.") from None


def _scheme_of(text: str) -> str:
    """What may be shown of a URL that could not be read: anything behind the scheme may be a password, or part of one."""
    scheme = re.match(r"[a-z][a-z0-9+.-]*://", text)
    return f"{scheme[0] if scheme else ''}…"


def _allowed(kind: Any) -> str:
    """`kind` in words: Annotated[int, Meta(ge=1, le=500)] is 'a whole number from 1 to 500'."""
    if kind is bool:
        return "true or false"
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(arguments)
    if arguments and arguments[0] is str:
        return "origins such as https://app.example.com, separated by commas, or *"
    bounds = next(a for a in arguments if isinstance(a, Meta))
    noun = "a whole number" if arguments[0] is int else "a number"
    if bounds.ge is not None:
        return f"{noun} from {bounds.ge} to {bounds.le}"
    return f"{noun} above {bounds.gt}, at most {bounds.le}"
