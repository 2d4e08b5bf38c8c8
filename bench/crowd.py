"""Keeps pages open until it is told to stop: `crowd.py PORT SOURCE_ADDRESS COUNT`. Prints `open` when all are."""

import asyncio
import signal
import sys

import uvloop
from load import WebSocketPeer, close_peers, open_peers, raise_file_limit


async def main(port: int, source: str, count: int) -> None:
    """Open, and wait for SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    peers = await open_peers(WebSocketPeer, port, count, "/__skew/ws?version=v1&route=/", source=source)
    print("open", flush=True)
    await over.wait()
    close_peers(peers)


if __name__ == "__main__":
    raise_file_limit()
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
