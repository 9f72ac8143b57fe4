"""The running service keeps what its OpenAPI document promises: schemathesis makes requests from the document, by its rules
and against them, and holds every answer against it. On one database, for which one it is makes no difference here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.reliability import Figures
from tests.service import RunningService

pytestmark = [pytest.mark.reliability, servers.ON_ONE]

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
HOOKS = "tests.acceptance.openapi_hooks"

OF_EVERY_ANSWER = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "unsupported_method", "allow_header_conformance"),
)
# One bad item never costs the others. So only of all or nothing can be said that a request is taken or refused.
OF_ALL_OR_NOTHING = ("positive_data_acceptance", "negative_data_rejection")


def report_of(service: RunningService, folder: Path, *arguments: str, is_long: bool, examples: int) -> dict[str, Any]:
    """What schemathesis reports of its run, in which it must find nothing."""
    report = folder / "report.json"
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG, "--no-color"),
            *("run", f"{service.client.base_url}/openapi.json", "--continue-on-failure", *arguments),
            *("--max-examples", str(examples * (50 if is_long else 1)), "--report", "json", "--report-json-path", report),
            # As hypothesis in tests/conftest.py.
            *([] if is_long else ["--generation-deterministic"]),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": HOOKS},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parsed: dict[str, Any] = json.loads(report.read_text())
    return parsed


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("arguments", "examples"),
    [
        pytest.param(["--checks", ",".join(OF_EVERY_ANSWER), "--phases", "examples,fuzzing"], 25, id="one by one"),
        pytest.param(
            ["--checks", ",".join((*OF_EVERY_ANSWER, *OF_ALL_OR_NOTHING)), "--header", "Prefer: handling=strict"],
            25,
            id="all or nothing",
        ),
    ],
)
def test_the_document_keeps_its_promises(
    shared_service: RunningService, tmp_path: Path, figures: Figures, is_long: bool, arguments: list[str], examples: int
) -> None:
    report = report_of(shared_service, tmp_path, *arguments, is_long=is_long, examples=examples)

    assert report["operations"]["tested"] == report["operations"]["total"] >= 6
    # Of the requests that go by the rules. It would say nothing if hardly one of them were taken.
    taken = [phases["fuzzing"]["accepted"] for path, phases in report["valid_rates"].items() if path.startswith("POST")]
    assert len(taken) == 2
    assert min(taken) > examples / 5
    figures.fuzzed_inputs += report["test_cases"]["generated"]
    figures.fuzzed_seconds += report["running_time"]
