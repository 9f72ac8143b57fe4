"""/docs in a browser that reaches nothing but the service."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.settings import DatabaseUrl
from tests import servers
from tests.service import RunningService, started

pytestmark = servers.ON_ONE

SECONDS = 15
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def service(writer_url: DatabaseUrl) -> Iterator[RunningService]:
    with started({"DB_URL": writer_url.reveal()}) as running:
        yield running


def browse(url: str, folder: Path, *arguments: str) -> str:
    """What Chromium prints of the page. Other hosts have no address for it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    options = (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1600"),
        *(f"--user-data-dir={folder / 'profile'}", f"--virtual-time-budget={SECONDS * 1000}"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    )
    done = subprocess.run([chromium, *options, *arguments, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_every_operation_without_the_internet(service: RunningService, tmp_path: Path) -> None:
    url = str(service.client.base_url).rstrip("/")
    paths = service.client.get("/openapi.json").json()["paths"].keys()

    page = browse(f"{url}/docs#/ingest/ingest_usage_events", tmp_path, "--dump-dom")

    assert set(re.findall(r'opblock-summary-path" data-path="([^"]*)"', page)) == paths
    assert "Try it out" in page  # of the one that the address names
    assert "handling=strict" in page
    assert "Failed to load" not in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)[^"]*\.(?:js|css|png)"', page)


def test_a_picture_can_be_taken_of_it(service: RunningService, tmp_path: Path) -> None:
    picture = tmp_path / "docs.png"

    browse(f"{str(service.client.base_url).rstrip('/')}/docs", tmp_path, f"--screenshot={picture}")

    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 20_000  # an empty page has 8 KB
