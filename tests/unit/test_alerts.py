"""The alert rules: Prometheus takes them, each fires when it should, and names what there is."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ingest import errors, metrics
from ingest.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
EXAMPLES = ROOT / "tests" / "alerts.test.yml"

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool here (Debian's package prometheus has it)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", FOLDER / "alerts.yml")
    assert "SUCCESS: 1 rule files found" in promtool("check", "config", FOLDER / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", EXAMPLES)


def test_each_alert_has_an_example() -> None:
    expected = re.findall(r'alertname="(\w+)"', EXAMPLES.read_text())

    assert set(expected) == {rule["alert"] for rule in RULES}


def test_each_alert_names_metrics_that_there_are() -> None:
    there_are = metrics.names() | {"up"}  # which is Prometheus' own

    for rule in RULES:
        named = set(re.findall(r"\b(?:ingest_\w+|up)\b", rule["expr"]))
        assert named, rule["alert"]
        assert named <= there_are, rule["alert"]


def test_the_examples_name_metrics_that_there_are() -> None:
    # Or a rule would be proven with a series that nobody writes.
    named = set(re.findall(r"series: '(\w+)", EXAMPLES.read_text()))

    assert named <= metrics.names() | {"up"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_the_case_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description"}
    for sentence in rule["annotations"].values():
        assert re.fullmatch(r"\S.*\.", sentence)


def codes(kind: type[errors.IngestError]) -> set[str]:
    return {kind.code}.union(*(codes(child) for child in kind.__subclasses__()))


def test_the_settings_that_advice_names_are_there() -> None:
    there_are = {info.encode_name for info in msgspec.structs.fields(Settings)}

    for rule in RULES:
        assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", str(rule["annotations"]))) <= there_are, rule["alert"]


def test_the_codes_that_advice_names_are_there() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "IngestRefusing"]

    named = re.findall(r"\b(\w+), (?:look|find|the load|raise)", rule["annotations"]["description"])
    assert len(named) == 4
    assert set(named) <= codes(errors.Unavailable)


def test_compose_runs_this_configuration_and_its_job_is_the_one_that_alerts_ask_for() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = configuration["scrape_configs"]

    assert "./deploy/prometheus:/etc/prometheus:ro" in compose["services"]["prometheus"]["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in compose["services"]["prometheus"]["command"]
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    jobs = {name for rule in RULES for name in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert jobs == {job["job_name"]}
