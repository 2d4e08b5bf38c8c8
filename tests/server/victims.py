"""
Pages that are about to be killed in the middle of what they say. Run as a program by test_hostile.py.

Opens 100 streams of each kind at the URL that is its argument, with everything that a peer can leave half said, writes
"ready", and waits to be killed.
"""

import asyncio
import sys
from urllib.parse import urlsplit

import uvloop

from kit.pages import Sse, WebSocket, all_of


async def main(url: str) -> None:
    """Open the streams at `url` and wait to be killed."""
    pages = await all_of([Sse.open(url, version="victim") for _ in range(100)])
    sockets = await all_of([WebSocket.open(url, version="victim") for _ in range(100)])
    for index, sock in enumerate(sockets):
        # A header without its length, a frame without its end, a message without its last frame.
        sock.transport.write([b"\x81", b"\x81\xfe\x00\xff\0\0\0\0{", b'\x01\x84\0\0\0\0{"ty'][index % 3])
    parts = urlsplit(url)
    for page in pages[:50]:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        body = f'{{"connectionId":"{page.handle}","route":"/half'
        writer.write(
            f"POST /__skew/route HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: 200\r\n\r\n{body}".encode()
        )
        kept.append(writer)
    print("ready", flush=True)
    await asyncio.Event().wait()


kept: list[asyncio.StreamWriter] = []

if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
