"""What a process does every now and then, it goes on doing."""

import asyncio
import logging

import pytest

from ingest import app, errors


async def test_a_task_that_fails_once_is_done_again_and_its_failure_told(caplog: pytest.LogCaptureFixture) -> None:
    done = 0
    enough = asyncio.Event()

    async def task() -> None:
        nonlocal done
        done += 1
        if done == 1:
            raise OSError("no descriptor left")
        if done == 2:
            raise errors.DatabaseAway("away")
        enough.set()

    repeating = asyncio.create_task(app.repeat(task, 0.001))
    async with asyncio.timeout(5):
        await enough.wait()
    repeating.cancel()

    [record] = caplog.records
    assert (record.levelno, "no descriptor left" in caplog.text) == (logging.ERROR, True)
