"""What a request says of itself: media types with parameters, preferences by RFC 7240."""

import pytest
from starlette.requests import Request

from ingest import errors
from ingest.web import headers
from ingest.web.decode import Media


def request(*fields: tuple[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw})


@pytest.mark.parametrize(
    ("content_type", "media"),
    [
        ("application/json", Media.JSON),
        ("Application/JSON", Media.JSON),
        ("application/json; charset=utf-8", Media.JSON),
        ("application/json;charset=UTF-8;v=2", Media.JSON),
        (" application/json ;", Media.JSON),
        ("application/x-ndjson", Media.NDJSON),
        ("APPLICATION/X-NDJSON; charset=utf-8", Media.NDJSON),
    ],
)
def test_a_media_type_is_known_whatever_its_case_and_parameters(content_type: str, media: Media) -> None:
    assert headers.media_of(request(("Content-Type", content_type))) is media


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        " ",
        ";",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "json",
        "application/*",
        "x\xe9/y",
    ],
)
def test_any_other_media_type_is_refused_with_what_is_taken(content_type: str) -> None:
    with pytest.raises(errors.TypeUnsupported) as caught:
        headers.media_of(request(("Content-Type", content_type)))

    assert "application/json or application/x-ndjson" in str(caught.value)


def test_a_body_of_no_type_is_refused() -> None:
    with pytest.raises(errors.TypeUnsupported, match="not missing"):
        headers.media_of(request())


@pytest.mark.parametrize(
    "prefer",
    [
        ["handling=strict"],
        ["Handling=Strict"],
        ['handling="strict"'],
        ["handling = strict"],
        ["  handling=strict  "],
        ["handling=strict; note=x"],
        ["return=minimal, handling=strict, wait=10"],
        ["return=minimal", "handling=strict"],
        [", ,handling=strict,"],
        ["handling=strict, handling=lenient"],
        ['note="a;b", handling=strict'],
    ],
)
def test_all_or_nothing_can_be_asked_for(prefer: list[str]) -> None:
    assert headers.is_strict(request(*(("Prefer", value) for value in prefer)))


@pytest.mark.parametrize(
    "prefer",
    [
        [],
        [""],
        ["handling=lenient"],
        ["handling"],
        ["handling="],
        ['handling=""'],
        ["handling=stricter"],
        ["strict"],
        ["x-handling=strict"],
        ["return=minimal; handling=strict"],
        ["handling=lenient, handling=strict"],
        ["handling=lenient", "handling=strict"],
        ['note="a, handling=strict"'],
    ],
)
def test_without_it_every_item_stands_for_itself(prefer: list[str]) -> None:
    assert not headers.is_strict(request(*(("Prefer", value) for value in prefer)))
