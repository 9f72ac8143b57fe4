"""Settings come from the environment and .env; a bad one is one line, and a password is nobody's business."""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from ingest import errors
from ingest import settings as settings_module
from ingest.settings import MIB, DatabaseUrl, Settings

NOWHERE = Path(os.devnull)


def load(dotenv: Path = NOWHERE, /, **environ: str) -> Settings:
    return settings_module.load(environ, dotenv)


def refusal(**environ: str) -> str:
    """The message that stops the start. It is one line, whatever it quotes."""
    with pytest.raises(errors.SettingInvalid) as caught:
        load(NOWHERE, **environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


@dataclass(frozen=True)
class Number:
    """A variable that holds a number."""

    variable: str
    field: str
    default: float | None
    least: int
    """Excluded where `is_float`."""
    most: int
    allowed: str
    is_float: bool = False

    def __str__(self) -> str:
        return self.variable


NUMBERS = [
    Number("DB_POOL_SIZE", "db_pool_connections", 10, 1, 500, "a whole number from 1 to 500"),
    Number("DB_TIMEOUT_SECONDS", "db_timeout_seconds", 30, 1, 600, "a whole number from 1 to 600"),
    Number("MAX_BULK_SIZE", "batch_items_max", 1000, 1, 100_000, "a whole number from 1 to 100000"),
    Number("MAX_GZIP_SIZE", "compressed_bytes_max", 10_485_760, 1024, 256 * MIB, "a whole number from 1024 to 268435456"),
    Number("MAX_BODY_SIZE", "body_bytes_max", 64 * MIB, 1024, 256 * MIB, "a whole number from 1024 to 268435456"),
    Number("BODY_TIMEOUT_SECONDS", "body_timeout_seconds", 15, 0, 3600, "a number above 0, at most 3600", is_float=True),
    Number("MAX_CLOCK_SKEW_SECONDS", "clock_skew_seconds_max", 300, 0, 86_400, "a whole number from 0 to 86400"),
    Number(
        "MAX_INFLIGHT_BYTES", "inflight_bytes_max", 256 * MIB, MIB, 65_536 * MIB, "a whole number from 1048576 to 68719476736"
    ),
    Number("MAX_QUEUED_ROWS", "queued_rows_max", 200_000, 1, 10_000_000, "a whole number from 1 to 10000000"),
    Number("QUEUE_TIMEOUT_SECONDS", "queue_timeout_seconds", 5, 0, 600, "a number above 0, at most 600", is_float=True),
    Number("MAX_CONNECTIONS", "connections_max", 4096, 1, 100_000, "a whole number from 1 to 100000"),
    Number("SHUTDOWN_SECONDS", "shutdown_seconds", 20, 1, 600, "a whole number from 1 to 600"),
    Number("CHUNK_TIME_INTERVAL_HOURS", "chunk_interval_hours", 24, 1, 8760, "a whole number from 1 to 8760"),
    Number("COMPRESSION_AFTER_DAYS", "compression_after_days", 7, 1, 36_500, "a whole number from 1 to 36500"),
    Number("RETENTION_DAYS", "retention_days", 180, 1, 36_500, "a whole number from 1 to 36500"),
    Number("DEDUPE_WINDOW_DAYS", "dedupe_window_days", None, 1, 36_500, "a whole number from 1 to 36500"),
]

NEIGHBOURS = {
    "MAX_INFLIGHT_BYTES": {"MAX_BODY_SIZE": "1024"},
    "COMPRESSION_AFTER_DAYS": {"RETENTION_DAYS": "36500"},
    "RETENTION_DAYS": {"COMPRESSION_AFTER_DAYS": "1"},
}
"""What a variable needs beside it so that it may hold anything at all."""


OTHERS = {
    *("DB_URL", "DB_PASSWORD_FILE", "INGEST_DATA_DIR", "AUTH_REQUIRED", "CORS_ALLOW_ORIGINS", "MAINTENANCE"),
    *("LOG_LEVEL", "LOG_FORMAT"),
}


def test_the_tables_here_have_every_variable() -> None:
    variables = {info.encode_name for info in msgspec.structs.fields(Settings)}

    assert {number.variable for number in NUMBERS} | OTHERS == variables


def test_nothing_needs_to_be_set() -> None:
    settings = load()

    assert settings == Settings()
    assert settings.db_url is None
    assert settings.data_dir is None


@pytest.mark.parametrize("choice", ["on", "off", "ON", "Off"])
def test_maintenance_is_on_or_off(choice: str) -> None:
    assert load().maintenance == "on"
    assert load(MAINTENANCE=choice).maintenance == choice.lower()


def test_the_log_has_a_level_and_a_form() -> None:
    assert (load().log_level, load().log_format) == ("info", "auto")
    assert load(LOG_LEVEL="WARNING", LOG_FORMAT="json") == Settings(log_level="warning", log_format="json")
    with pytest.raises(errors.SettingInvalid, match=r"^LOG_LEVEL='loud' is not allowed: it must be debug or info or warning"):
        load(LOG_LEVEL="loud")


@pytest.mark.parametrize("choice", ["true", "1", "no"])
def test_maintenance_is_nothing_else(choice: str) -> None:
    with pytest.raises(errors.SettingInvalid, match=f"^MAINTENANCE='{choice}' is not allowed: it must be on or off\\.$"):
        load(MAINTENANCE=choice)


@pytest.mark.parametrize(("text", "required"), [("true", True), ("TRUE", True), ("false", False), ("0", False)])
def test_whether_a_key_is_required_may_be_said(text: str, required: bool) -> None:
    assert load().auth_required is None
    assert load(AUTH_REQUIRED=text).auth_required is required


@pytest.mark.parametrize("text", ["on", "null", "no", "2"])
def test_whether_a_key_is_required_is_true_or_false(text: str) -> None:
    assert refusal(AUTH_REQUIRED=text) == f"AUTH_REQUIRED={text!r} is not allowed: it must be true or false."


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://app.example.com", ["https://app.example.com"]),
        ("http://localhost:3000 , https://[::1]:8443", ["http://localhost:3000", "https://[::1]:8443"]),
        ("*", ["*"]),
    ],
)
def test_origins_are_listed(text: str, origins: list[str]) -> None:
    assert load().cors_origins == []
    assert load(CORS_ALLOW_ORIGINS=text).cors_origins == origins


@pytest.mark.parametrize(
    "text", ["example.com", "https://example.com/", "https://a.example, b", "ftp://x", "null", "https://*.example.com"]
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    assert refusal(CORS_ALLOW_ORIGINS=text).startswith(
        f"CORS_ALLOW_ORIGINS={text!r} is not allowed: it must be origins such as https"
    )


def test_policies_get_every_setting_they_read() -> None:
    settings = load(RETENTION_DAYS="90", COMPRESSION_AFTER_DAYS="3", CHUNK_TIME_INTERVAL_HOURS="12")

    assert settings.policy_settings == {
        "chunk_time_interval_hours": 12,
        "compression_after_days": 3,
        "retention_days": 90,
        "dedupe_window_days": 90,
    }
    assert load(DEDUPE_WINDOW_DAYS="30").policy_settings["dedupe_window_days"] == 30


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_a_number_has_its_default(number: Number) -> None:
    assert getattr(load(), number.field) == number.default


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_a_number_is_taken_from_its_least_to_its_most(number: Number) -> None:
    least = "0.001" if number.is_float else str(number.least)
    most = str(number.most)
    if number.variable == "COMPRESSION_AFTER_DAYS":
        most = "36499"
    if number.variable == "RETENTION_DAYS":
        least = "2"

    for text in (least, most):
        settings = load(NOWHERE, **{number.variable: text}, **NEIGHBOURS.get(number.variable, {}))
        assert getattr(settings, number.field) == float(text)


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_a_number_out_of_bounds_or_no_number_is_refused_in_one_line(number: Number) -> None:
    below = number.least if number.is_float else number.least - 1

    for text in (str(below), str(number.most + 1), "-5", "ten", "10MB", "1_000", "0x10", "1e99", "nan", "inf", "true", "5 6"):
        message = refusal(**{number.variable: text}, **NEIGHBOURS.get(number.variable, {}))
        assert message == f"{number.variable}={text!r} is not allowed: it must be {number.allowed}."


@pytest.mark.parametrize("number", [number for number in NUMBERS if not number.is_float], ids=str)
def test_a_fraction_is_no_whole_number(number: Number) -> None:
    assert number.allowed in refusal(**{number.variable: "1.5"})


@pytest.mark.parametrize("text", ["", " ", "\t", "\n"])
@pytest.mark.parametrize(
    "variable", [*(number.variable for number in NUMBERS), *sorted(OTHERS - {"MAINTENANCE", "LOG_LEVEL", "LOG_FORMAT"})]
)
def test_a_variable_that_is_set_to_nothing_counts_as_not_set(variable: str, text: str) -> None:
    assert load(NOWHERE, **{variable: text}) == Settings()


def test_space_around_a_value_does_not_matter() -> None:
    assert load(DB_POOL_SIZE=" 20 ", DB_URL="  postgresql://host/db\n").db_pool_connections == 20


def test_a_value_that_spans_lines_is_refused_in_one() -> None:
    assert refusal(DB_POOL_SIZE="5\n6").startswith("DB_POOL_SIZE='5\\n6' is not allowed")


def test_variables_that_are_not_ours_are_nobody_s_business() -> None:
    assert load(PATH="/bin", db_pool_size="5", DB_POOL="x") == Settings()


@pytest.mark.parametrize("text", ["/var/lib/ingest", "relative/path", "~/ingest", "with space", "5"])
def test_the_data_folder_is_taken_as_it_is(text: str) -> None:
    assert load(INGEST_DATA_DIR=text).data_dir == text


@pytest.mark.parametrize(("compression", "retention", "allowed"), [(179, 180, True), (180, 180, True), (181, 180, False)])
def test_compression_comes_no_later_than_retention(compression: int, retention: int, allowed: bool) -> None:
    variables = {"COMPRESSION_AFTER_DAYS": str(compression), "RETENTION_DAYS": str(retention)}

    if allowed:
        assert load(NOWHERE, **variables).compression_after_days == compression
    else:
        message = refusal(**variables)
        assert f"COMPRESSION_AFTER_DAYS={compression}" in message
        assert f"RETENTION_DAYS, which is {retention}" in message


def test_a_short_retention_brings_the_default_of_compression_along() -> None:
    assert load(NOWHERE, RETENTION_DAYS="1").compression_after_days == 1
    assert load(NOWHERE, RETENTION_DAYS="7").compression_after_days == 7


def test_one_body_must_fit_into_what_may_be_in_flight() -> None:
    # Or it would get 503 for ever.
    message = refusal(MAX_INFLIGHT_BYTES=str(2 * MIB), MAX_BODY_SIZE=str(2 * MIB + 1))

    assert f"MAX_BODY_SIZE={2 * MIB + 1}" in message
    assert f"MAX_INFLIGHT_BYTES, which is {2 * MIB}" in message
    assert load(MAX_INFLIGHT_BYTES=str(2 * MIB), MAX_BODY_SIZE=str(2 * MIB)).body_bytes_max == 2 * MIB


@pytest.mark.parametrize(("dedupe", "age"), [(None, 180), ("30", 30), ("180", 180), ("500", 180)])
def test_an_event_may_be_as_old_as_both_the_rows_and_the_ledger_are_kept(dedupe: str | None, age: int) -> None:
    assert load(**({"DEDUPE_WINDOW_DAYS": dedupe} if dedupe else {})).event_age_days_max == age


# --- .env -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@pytest.mark.parametrize(
    "line",
    [
        *("DB_POOL_SIZE=5", "DB_POOL_SIZE = 5", "export DB_POOL_SIZE=5", "DB_POOL_SIZE='5'", 'DB_POOL_SIZE="5"'),
        *(
            "DB_POOL_SIZE=5 # five",
            "# DB_POOL_SIZE=6\nDB_POOL_SIZE=5\n",
            "DB_POOL_SIZE=4\nDB_POOL_SIZE=5",
            "DB_POOL_SIZE=5\r\n",
        ),
    ],
)
def test_a_setting_may_stand_in_the_file(dotenv: Path, line: str) -> None:
    dotenv.write_text(line)

    assert load(dotenv).db_pool_connections == 5


def test_the_environment_wins_over_the_file(dotenv: Path) -> None:
    dotenv.write_text("DB_POOL_SIZE=5\nMAX_BULK_SIZE=50\n")

    settings = load(dotenv, DB_POOL_SIZE="6")

    assert (settings.db_pool_connections, settings.batch_items_max) == (6, 50)


@pytest.mark.parametrize("nothing", ["", "  "])
def test_a_variable_that_is_set_to_nothing_does_not_hide_the_file(dotenv: Path, nothing: str) -> None:
    dotenv.write_text("DB_POOL_SIZE=5\n")

    assert load(dotenv, DB_POOL_SIZE=nothing).db_pool_connections == 5


def test_the_file_is_not_interpolated(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    dotenv.write_text("DB_URL=postgresql://u:a${HOME}$x@h/db\n")

    url = load(dotenv).db_url

    assert url is not None
    assert url.reveal() == "postgresql://u:a${HOME}$x@h/db"


def test_a_bad_value_in_the_file_is_refused_alike(dotenv: Path) -> None:
    dotenv.write_text("DB_POOL_SIZE=0\n")

    with pytest.raises(errors.SettingInvalid, match=r"^DB_POOL_SIZE='0' is not allowed"):
        load(dotenv)


def test_the_file_is_the_one_in_the_working_directory(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv.write_text("DB_POOL_SIZE=5\n")
    monkeypatch.chdir(dotenv.parent)
    for info in msgspec.structs.fields(Settings):
        monkeypatch.delenv(info.encode_name, raising=False)
    monkeypatch.setenv("MAX_BULK_SIZE", "50")

    settings = settings_module.load()

    assert (settings.db_pool_connections, settings.batch_items_max) == (5, 50)


def test_a_file_that_can_not_be_read_is_refused_in_one_line(dotenv: Path) -> None:
    dotenv.write_bytes("DB_URL=postgresql://h/db".encode("utf-16"))

    with pytest.raises(errors.SettingInvalid, match=r"\.env"):
        load(dotenv)


def test_a_file_that_may_not_even_be_looked_at_is_refused_in_one_line(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bool:  # as in a folder that is closed to this user; root may enter any
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)

    with pytest.raises(errors.SettingInvalid, match=r"\.env can't be read: PermissionError"):
        load(dotenv)


def test_every_bad_value_is_named() -> None:
    assert refusal(DB_POOL_SIZE="0", LOG_LEVEL="loud") == (
        "DB_POOL_SIZE='0' is not allowed: it must be a whole number from 1 to 500. "
        "LOG_LEVEL='loud' is not allowed: it must be debug or info or warning or error."
    )


# --- DB_URL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "revealed"),
    [
        ("postgresql://u:p@h:5432/db", "postgresql://u:p@h:5432/db"),
        ("postgres://u:p@h/db", "postgresql://u:p@h/db"),
        ("postgresql+asyncpg://u:p@h/db", "postgresql://u:p@h/db"),
        ("postgresql+psycopg://u:p@h/db?sslmode=require", "postgresql://u:p@h/db?sslmode=require"),
        ("postgresql://", "postgresql://"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db?host=/run/postgresql"),
        ("postgresql://u:p%40ss@h/db", "postgresql://u:p%40ss@h/db"),
        ("postgresql://u@[::1]:5432/db", "postgresql://u@[::1]:5432/db"),
    ],
)
def test_a_url_may_be_spelled_for_any_driver(text: str, revealed: str) -> None:
    url = load(DB_URL=text).db_url

    assert url is not None
    assert url.reveal() == revealed


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "mysql://u@h/db",
        "http://h",
        "postgresql:h/db",
        "sqlite:///x",
        "://",
        "postgresql",
        "postgresql://h:port/db",
    ],
)
def test_what_is_no_such_url_is_refused_with_what_is_allowed(text: str) -> None:
    message = refusal(DB_URL=text)

    assert message.startswith("DB_URL=")
    assert message.endswith("it must be postgresql://user:password@host:port/database, a password percent-encoded.")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql+asyncpg://u:p@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://h/db?password=p&sslmode=require", "postgresql://h/db"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db"),
        ("postgresql://u@[::1]:5432/db", "postgresql://u@[::1]:5432/db"),
    ],
)
def test_a_url_is_shown_without_its_password(text: str, shown: str) -> None:
    assert str(DatabaseUrl(text)) == shown
    assert repr(DatabaseUrl(text)) == f"DatabaseUrl({shown!r})"


def test_urls_are_equal_by_what_they_reveal() -> None:
    url = DatabaseUrl("postgresql://u:p@h/db")

    assert url == DatabaseUrl("postgresql+asyncpg://u:p@h/db")
    assert hash(url) == hash(DatabaseUrl("postgres://u:p@h/db"))
    assert url != DatabaseUrl("postgresql://u:other@h/db")
    assert url != "postgresql://u:p@h/db"


# Every part of a password is made of letters that stand nowhere else, so that whatever is left of it is found.
SECRETS = ["QZXQ", "ZQKV", "7391"]
passwords = st.lists(st.sampled_from([*SECRETS, *"@/:%?#[]& =+'\"\\\té😀"]), min_size=1, max_size=7).map("".join)


def everything_shown(text: str) -> str:
    """All that a start with this DB_URL could print: the settings, the error, its traceback."""
    try:
        settings = load(DB_URL=text)
    except errors.SettingInvalid as error:
        return "".join(traceback.format_exception(error))
    return f"{settings} {settings!r} {settings.db_url} {settings.db_url!r} {[settings.db_url]}"


def leaked(shown: str) -> list[str]:
    return [secret for secret in SECRETS if secret in shown]


@given(password=passwords)
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_password_that_is_encoded_is_never_shown_and_reaches_the_driver(password: str) -> None:
    text = f"postgresql+asyncpg://user:{quote(password, safe='')}@host:5432/db"

    url = load(DB_URL=text).db_url

    assert url is not None
    assert url.reveal() == text.replace("+asyncpg", "")
    assert leaked(everything_shown(text)) == []


@given(password=passwords, scheme=st.sampled_from(["postgresql", "mysql", "postgresq", "postgresql+", "jdbc:postgresql"]))
@example(password="7391/QZXQ", scheme="postgresql")
@example(password="/QZXQ", scheme="jdbc:postgresql")
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_password_that_is_not_encoded_is_never_shown(password: str, scheme: str) -> None:
    assert leaked(everything_shown(f"{scheme}://user:{password}@host:5432/db")) == []


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:QZXQ@host:99999/db",
        "postgresql:///db?password=QZXQ",
        "user:QZXQ@host/db",
        "postgresql:/u:QZXQ@h/db",
        "host=localhost user=u password=QZXQ dbname=db",
        "mysql://user:QZXQ",
        "postgresql:user:QZXQ",
        "user:QZXQ://x@host",
        "mysql://host/db?password=QZXQ@ZQKV",
        "jdbc:postgresql://host/db?user=a@b&password=QZXQ",
        "postgresql://user:7391#QZXQ@host/db",
        "postgresql://user:7391?QZXQ@host/db",
    ],
)
def test_a_password_that_stands_where_it_should_not_is_never_shown(text: str) -> None:
    assert leaked(everything_shown(text)) == []


@pytest.mark.parametrize("text", ["postgresql://u:QZXQ/x@h/db", "postgresql://u:QZXQ@h\u2100/db"])
def test_the_url_s_own_error_has_nothing_of_the_value(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        DatabaseUrl(text)

    assert leaked(str(caught.value)) == []


# --- DB_PASSWORD_FILE -------------------------------------------------------------------------------------------------


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    return tmp_path / "db_password"


@pytest.mark.parametrize(
    ("content", "password"),
    [
        ("secret", "secret"),
        ("secret\n", "secret"),
        ("secret\r\n", "secret"),
        (" a b \n", " a b "),
        ("p@s/s:w#o?r&d%+=\n", "p@s/s:w#o?r&d%+="),
        ("p\u00e4ss\U0001f600\n", "p\u00e4ss\U0001f600"),
        ("x" * settings_module.PASSWORD_BYTES_MAX, "x" * settings_module.PASSWORD_BYTES_MAX),
    ],
)
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada@db:5432/analytics",
        "postgresql://ada@db/analytics?sslmode=require",
        "postgresql:///analytics?host=/run/postgresql",
        "postgresql://",
        "postgresql://db/analytics?",
    ],
)
def test_a_password_comes_from_a_file_and_reaches_both_drivers(
    password_file: Path, url: str, content: str, password: str
) -> None:
    password_file.write_bytes(content.encode())

    settings = load(DB_URL=url, DB_PASSWORD_FILE=str(password_file))

    assert settings.db_url is not None
    assert conninfo_to_dict(settings.db_url.reveal())["password"] == password
    assert parse_qs(urlsplit(settings.db_url.reveal()).query)["password"] == [password]  # which is how asyncpg reads it
    assert password not in f"{settings!r} {settings.db_url}"


def password_refusal(path: Path, url: str = "postgresql://ada@db/x") -> str:
    head = f"DB_PASSWORD_FILE={str(path)!r} is not allowed: "
    message = refusal(DB_URL=url, DB_PASSWORD_FILE=str(path))
    assert message.startswith(head)
    return message.removeprefix(head)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty."),
        (b"\n", "the file is empty."),
        (b"QZXQ\nZQKV\n", "the file has more than one line, or a NUL; it must hold the password and nothing else."),
        (b"QZXQ\0", "the file has more than one line, or a NUL; it must hold the password and nothing else."),
        (b"QZXQ\xff", "the file is not UTF-8 text."),
        (b"QZXQ" * 1025, "the file holds more than 4096 bytes, which is no password."),
    ],
)
def test_a_file_that_holds_no_password_is_refused_and_not_quoted(password_file: Path, content: bytes, reason: str) -> None:
    password_file.write_bytes(content)

    assert password_refusal(password_file) == reason


def test_a_password_file_that_can_not_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    advice = "the user that runs this must be allowed to read it."

    assert password_refusal(tmp_path / "none") == f"the file can't be read (No such file or directory); {advice}"
    assert password_refusal(tmp_path) == f"the file can't be read (Is a directory); {advice}"
    assert password_refusal(Path("a\0b")) == f"the file can't be read (no such path); {advice}"


@pytest.mark.parametrize("url", ["postgresql://ada:QZXQ@db/x", "postgresql://ada@db/x?password=QZXQ"])
def test_there_is_one_password(password_file: Path, url: str) -> None:
    password_file.write_text("ZQKV")

    assert password_refusal(password_file, url) == "DB_URL has a password, too; remove one of them."


def test_a_password_needs_a_url_that_it_is_for(password_file: Path) -> None:
    password_file.write_text("QZXQ")

    message = refusal(DB_PASSWORD_FILE=str(password_file))

    assert message.endswith(" is not allowed: it is the password for DB_URL, which is not set.")
