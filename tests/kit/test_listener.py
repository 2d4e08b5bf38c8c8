"""The TCP server of tests closes every connection, whatever its peer does."""

import asyncio
import gc
import warnings
from contextlib import suppress

import pytest

from kit.listener import Listener

pytestmark = pytest.mark.anyio


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"x" * 10_000_000)  # more than a socket takes from it while nobody reads
    await reader.read()


async def test_a_peer_that_never_reads_is_left() -> None:
    async with Listener(hold) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await reader.readexactly(1)
    with suppress(ConnectionError):  # how it ends does not matter
        while await asyncio.wait_for(reader.read(1_000_000), 5):
            pass
    writer.close()


def test_connections_of_the_last_moment_are_closed() -> None:
    async def come_late() -> None:
        async with Listener(hold) as server:
            writers = [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(3)]
        for writer in writers:
            writer.transport.abort()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(10):
            asyncio.run(come_late())
        gc.collect()
    assert not told, [str(warning.message) for warning in told]


async def test_it_comes_back_on_the_same_port() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    server = Listener(greet)
    ports = set()
    for _ in range(2):
        async with server:
            ports.add(server.port)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            assert await reader.read() == b"hello"
            writer.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", server.port)
    assert len(ports) == 1


async def test_connections_of_a_handler_end_with_it() -> None:
    left = asyncio.get_running_loop().create_future()

    async def be_last(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        left.set_result(await reader.read())

    async def forward(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await proxy.connect(target.port)
        forwarded.set()
        await reader.read()

    forwarded = asyncio.Event()
    target, proxy = Listener(be_last), Listener(forward)
    async with target:
        async with proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            await forwarded.wait()
        assert await asyncio.wait_for(left, 5) == b""
    writer.close()
