"""
uvicorn's protocol class, which offers the socket of each request that asks for a stream.

The offer travels in the request's scope as an ASGI extension (`handover.py`). Headcount takes it up once the stream has
begun; whoever does not know it notices nothing.
"""

import asyncio
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ...core.messages import Payload
from ...node import Node
from ..handover import EXTENSION
from .handshake import Handshake, acceptable
from .streams import Home, SseStream

if TYPE_CHECKING:
    from ..app import Headcount


class HeadcountProtocol(HttpToolsProtocol):
    """Serves one TCP connection as uvicorn does, and lets go of it when it has become a stream."""

    headcount: ClassVar["Headcount"]
    _shared_home: ClassVar[Home | None] = None

    def on_headers_complete(self) -> None:
        """Offer the socket of an event stream."""
        path = self.url.partition(b"?")[0]
        # TLS is between us and the socket then; what is saved would be little beside what it costs.
        if not path.endswith(self.headcount.stream_paths[0]) or self.scheme == "https":
            super().on_headers_complete()
            return
        transport = self.transport
        offer = SocketOffer(self, transport)
        self.scope["extensions"] = {EXTENSION: offer}  # type: ignore[dict-item]
        # What the request's answer is written to; it notes what that was.
        self.transport = offer  # type: ignore[assignment]
        try:
            super().on_headers_complete()
        finally:
            self.transport = transport

    def on_response_complete(self) -> None:
        """Let go of an offer that was not taken up, before it is garbage that only the collector finds."""
        if self.cycle is not None:
            written_to: object = self.cycle.transport
            if isinstance(written_to, SocketOffer):
                written_to.withdraw()
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        """Answer the handshake of a stream ourselves; all others are the WebSocket library's."""
        path, _, query = self.url.partition(b"?")
        key = acceptable(self.headers) if path.endswith(self.headcount.stream_paths[1]) else None
        if key is None or self.scheme == "https" or self.scope["method"] != "GET":
            super().handle_websocket_upgrade()
            return
        handshake = Handshake(self, key, self.server_state.default_headers)
        scope: Scope = {
            **self.scope,
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "scheme": "ws",
            "path": self.root_path + unquote(path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
            "subprotocols": [],
            "extensions": {EXTENSION: handshake},
        }
        del scope["method"]
        self.transport.pause_reading()  # until it is decided who reads
        task = self.loop.create_task(handshake.run(self.app, scope))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def release(self) -> None:
        """Let go of the socket, which has become somebody else's, and of all that would keep this object alive."""
        self.connections.discard(self)
        if self.cycle is not None:
            # It has not been answered in full, as far as uvicorn knows, and must not be: its peer "has left".
            self.cycle.disconnected = True
            self.cycle = None  # type: ignore[assignment]
        self.parser = None  # type: ignore[assignment]

    def home(self, node: Node) -> Home:
        """Return what the streams of a node in this server share."""
        cls = type(self)
        home = cls._shared_home
        if (
            home is None
            or home.node is not node
            or home.loop is not self.loop
            or home.connections is not self.connections
        ):
            home = cls._shared_home = Home(node, self.loop, self.connections)
        return home


class SocketOffer:
    """
    The socket of one `GET {base}/sse`. Stands between the answer and the transport, and notes what passes.

    Args:
        protocol: Whose request it is.
        transport: The socket.
    """

    __slots__ = ("_protocol", "_transport", "_written")

    def __init__(self, protocol: HeadcountProtocol, transport: asyncio.Transport) -> None:
        self._protocol: HeadcountProtocol | None = protocol
        self._transport = transport
        self._written: list[bytes] | None = []

    def sse(
        self, node: Node, public_id: str, connected: Payload, *, counted: bool, visible_keepalives: bool
    ) -> SseStream | None:
        """Take the socket over; see `handover.SseOffer`."""
        protocol, written, self._written = self._protocol, self._written, None
        if protocol is None or not self._untouched(protocol, written, connected):
            return None
        self._protocol = None
        home = protocol.home(node)
        protocol.release()
        return SseStream(home, self._transport, public_id, counted=counted, visible_keepalives=visible_keepalives)

    def withdraw(self) -> None:
        """The request has been answered."""
        self._protocol = self._written = None

    def write(self, data: bytes) -> None:
        """Note what the answer is, until it is known to be a stream or not."""
        if self._written is not None:
            self._written.append(data)
            if len(self._written) > 2:
                self._written = None
        self._transport.write(data)

    def is_closing(self) -> bool:
        """As the transport."""
        return self._transport.is_closing()

    def close(self) -> None:
        """As the transport."""
        self._transport.close()

    def _untouched(self, protocol: HeadcountProtocol, written: list[bytes] | None, connected: Payload) -> bool:
        """Say whether the answer came here as it was sent, in chunks, and nothing else is going on."""
        if written is None or len(written) != 2 or written[1] != connected.event_chunk:
            return False  # middleware holds it back, or changes it
        head, cycle = written[0], protocol.cycle
        written_to: object = cycle.transport if cycle is not None else None
        return (
            head.startswith(b"HTTP/1.1 200 ")
            and b"\r\ntransfer-encoding: chunked\r\n" in head
            and b"\r\ncontent-encoding:" not in head
            and written_to is self  # and not that of a request which came after it
            and not protocol.pipeline
            and not cycle.disconnected
            and not self._transport.is_closing()
            and not protocol.flow.write_paused
        )
