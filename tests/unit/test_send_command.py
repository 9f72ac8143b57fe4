"""The command line of `ingest send`, without a service."""

import pytest

from ingest import cli


@pytest.mark.parametrize("options", [["--in-flight", "0"], ["--stream", "x"], ["--batch-size", "many"], ["a", "a"], []])
def test_usage_is_2(options: list[str]) -> None:
    try:
        status: object = cli.main(["send", *options])
    except SystemExit as error:
        status = error.code
    assert status == 2
