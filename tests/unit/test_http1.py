"""An answer leaves in one piece, as soon as the event loop gets to it."""

import asyncio
from unittest.mock import Mock, call

import pytest
from uvicorn import Config

from ingest.web.connections import Connections
from ingest.web.http1 import Http1


@pytest.fixture
def transport() -> Mock:
    transport = Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    transport.get_extra_info.return_value = None
    return transport


async def connected(transport: Mock) -> asyncio.Transport:
    """What the protocol writes to once it is connected to `transport`."""
    protocol = Http1(Config(app=Mock()), Connections(10), {})
    protocol.connection_made(transport)
    return protocol.transport


async def test_what_is_written_in_one_turn_is_sent_together(transport: Mock) -> None:
    joined = await connected(transport)

    joined.write(b"head")
    joined.write(b"body")
    transport.write.assert_not_called()
    await asyncio.sleep(0)
    joined.write(b"more")
    await asyncio.sleep(0)

    assert transport.write.call_args_list == [call(b"headbody"), call(b"more")]


async def test_what_was_written_is_sent_before_the_connection_closes(transport: Mock) -> None:
    joined = await connected(transport)

    joined.write(b"goodbye")
    joined.close()
    await asyncio.sleep(0)

    assert transport.mock_calls[-2:] == [call.write(b"goodbye"), call.close()]


async def test_nothing_is_sent_where_the_client_has_gone(transport: Mock) -> None:
    joined = await connected(transport)

    joined.write(b"too late")
    transport.is_closing.return_value = True
    await asyncio.sleep(0)

    transport.write.assert_not_called()
    assert joined.is_closing()
