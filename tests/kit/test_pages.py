"""Pages must leave nothing behind themselves, or what is found out with them about servers is worth nothing."""

import asyncio
import gc
import socket
import struct
import warnings

import pytest

from kit.listener import Listener

from .pages import Sse, WebSocket

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", [Sse, WebSocket])
async def test_a_page_whose_server_is_killed_in_the_handshake_closes_its_descriptor_once(
    kind: type[Sse | WebSocket],
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        class Killed(kind):  # type: ignore[misc, valid-type]
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted, _ = server.accept()
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.close()
                super().connection_made(transport)

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            page = await Killed.start(f"http://127.0.0.1:{server.getsockname()[1]}")
            await page.until(lambda s: s.ended)
            del page
            gc.collect()
        assert not told, [str(warning.message) for warning in told]


async def test_a_page_that_is_refused_does_not_stay() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        left.set_result(await reader.read())
        writer.close()

    left: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with Listener(refuse) as server:
        with pytest.raises(AssertionError, match="refused: 503"):
            await Sse.open(server.url)
        async with asyncio.timeout(5):
            assert await left == b""
