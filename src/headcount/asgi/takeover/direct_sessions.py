"""
One open stream on a bare socket; the only object that Headcount keeps for it beside its record in the registry.

The transport's high-water mark is zero: a write goes to the kernel at once, and the protocol is paused exactly while
some of it is still waiting. So "paused" is what `busy` means, and a peer that does not read holds one message.

Tests: tests/asgi/takeover/test_frames_in.py, tests/asgi/takeover/test_taking_over.py.
"""

import asyncio
from collections.abc import Generator
from typing import Any, Final

from websockets.exceptions import PayloadTooBig
from websockets.exceptions import ProtocolError as BadFrame
from websockets.frames import Close, Frame, Opcode

from ...authorization.authorizer import AuthorizationCheck
from ...authorization.deferred import MakeCheck
from ...core import messages
from ...core.ends import BAD_FRAME, CLIENT, FAREWELLS, MALFORMED, NOT_AUTHORISED, End, end_of
from ...core.frames import close_frame, pong_frame
from ...core.outbox import Outbox
from ...core.payload import ARE_YOU_THERE, COMMENT, KEEPALIVE, Payload, sse_close_chunks, websocket_close_frames
from ...errors import ProtocolError, TooLarge
from ...node.node_parts import NodeParts
from ..session import CLOSE_TIMEOUT
from ..stream_request import StreamRequest

try:
    from websockets.speedups import apply_mask
except ImportError:  # where websockets was built without a compiler
    from websockets.utils import apply_mask

_COUNTED: Final = 1
_VISIBLE_KEEPALIVES: Final = 2
_PAUSED: Final = 4
_OVER: Final = 8
"""Out of the figures; only the last message is still to be sent."""
_CLOSING: Final = 16
"""A WebSocket that has sent its close frame and waits for the peer's."""
_ANSWERS: Final = 32
"""The client answers `are-you-there`."""

_TEXT: Final = 0x81
"""First byte of a text frame that is a whole message; all others are read by the library."""
_MASKED: Final = 0x80

TOO_LONG: Final = f"The message is too long; at most {messages.MAX_MESSAGE} bytes are allowed."


class SessionContext:
    """What the streams of one server in one loop have in common."""

    __slots__ = ("connections", "loop", "node", "parts")

    def __init__(self, parts: NodeParts, loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
        self.parts = parts
        self.node = parts.node
        self.loop = loop
        self.connections = connections
        """uvicorn's set of objects to stop, and to wait for when it stops; `--limit-concurrency` counts it."""

    def enter(self, session: "DirectSession") -> None:
        """Add a stream that begins."""
        self.connections.add(session)

    def leave(self, session: "DirectSession") -> None:
        """Remove a stream that is over."""
        self.connections.discard(session)

    def hold_server_until_left(self) -> None:
        """Let uvicorn wait until the leave message is out, if the node leaves because this was the last stream."""
        if self.node.is_idle:
            leaving = self.loop.create_task(self.node.wait_left())
            self.connections.add(leaving)
            leaving.add_done_callback(self.connections.discard)


class CountingSessionContext(SessionContext):
    """A context that is in uvicorn's set in place of all its streams, which saves an entry for each."""

    __slots__ = ("_count",)

    def __init__(self, parts: NodeParts, loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
        super().__init__(parts, loop, connections)
        self._count = 0

    def enter(self, session: "DirectSession") -> None:  # noqa: ARG002
        """Add a stream that begins."""
        self._count += 1
        if self._count == 1:
            self.connections.add(self)

    def leave(self, session: "DirectSession") -> None:  # noqa: ARG002
        """Remove a stream that is over."""
        self._count -= 1
        if not self._count:
            self.connections.discard(self)

    def shutdown(self) -> None:
        """Stop all of them, because the server does."""
        for session in list(self.node.sessions.values()):
            if isinstance(session, DirectSession) and session.context is self:
                session.end(self.parts.admission.going_away())


class DirectSession(Outbox, asyncio.Protocol):
    """
    Base of the two kinds. Implements `headcount.node.session.Session`.

    Args:
        context: What it shares with the other streams of its server.
        transport: The socket, whose protocol it becomes.
        public_id: Of the connection.
        counted: False for a viewer's own stream, and for a stream that tabs share.
        flags: Further ones.
    """

    __slots__ = ("_context", "_flags", "_transport", "deadline", "id", "paid_until", "slot")

    def __init__(
        self, context: SessionContext, transport: asyncio.Transport, public_id: str, *, counted: bool, flags: int = 0
    ) -> None:
        super().__init__()
        self.id = public_id
        self.deadline: float | None = None
        self.slot = 0
        self.paid_until = 0.0
        self._context = context
        self._transport = transport
        self._flags = flags | (_COUNTED if counted else 0)
        context.enter(self)
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=0)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it must be called in."""
        return self._context.loop

    @property
    def context(self) -> SessionContext:
        """What it shares with the other streams of its server."""
        return self._context

    @property
    def counted(self) -> bool:
        """False for a viewer's own stream, and for a stream that tabs share."""
        return self._flags & _COUNTED != 0

    @property
    def busy(self) -> bool:
        """A message is still on its way."""
        return self._flags & _PAUSED != 0

    @property
    def over(self) -> bool:
        """Nothing but the last message may be sent any more."""
        return self._flags & _OVER != 0

    @property
    def max_queued(self) -> int:
        """Messages that may wait."""
        return self._context.node.max_queued(self.id)

    def transmit(self, payload: Payload) -> None:
        """Send now; must not be called while busy."""
        raise NotImplementedError

    def keepalive(self, ask: bool = False) -> bool:
        """Send the smallest thing that keeps the stream open, or ask whether the client is there."""
        raise NotImplementedError

    def end(self, end: End) -> None:
        """End the stream from this side. Idempotent."""
        if not self._flags & _OVER:
            self._leave(end.cause)
            self._send_close(end)

    def shutdown(self) -> None:
        """Stop: uvicorn calls this when the server does. Other servers have connections of their own."""
        self.end(self._context.parts.admission.going_away())
        self._context.hold_server_until_left()

    def data_received(self, data: bytes) -> None:
        """Ignore it: after its request, nothing is expected from this peer."""

    def pause_writing(self) -> None:
        """Note that the peer does not read: some of the last message is still here."""
        self._flags |= _PAUSED
        if not self._flags & _OVER:
            self._context.parts.timers.mark_busy(self)

    def resume_writing(self) -> None:
        """Send what waits, because the peer reads again."""
        self._flags &= ~_PAUSED
        if self._flags & _OVER:
            return
        self._context.parts.timers.mark_writable(self)
        if self.resume():
            self._context.parts.viewers.caught_up(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave the figures: the peer is gone, or we closed."""
        self._context.leave(self)
        if not self._flags & _OVER:
            self._leave(CLIENT)

    def _leave(self, cause: str, *, farewell: bool = False) -> None:
        self._flags |= _OVER
        self.discard()
        self._context.node.close(self, cause, farewell=farewell)

    def _send_close(self, end: End) -> None:
        """Send the last messages and close."""
        raise NotImplementedError

    def _close_transport(self) -> None:
        """Close when everything is sent, or after a time-out."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._context.loop.call_later(CLOSE_TIMEOUT, self._transport.abort)


class DirectSseSession(DirectSession):
    """
    What is left of a `GET /sse`: a chunked response that has begun.

    Args:
        context: What it shares with the other streams of its server.
        transport: The socket.
        public_id: Of the connection.
        request: What the client says about the stream. It is not kept.
    """

    __slots__ = ()

    def __init__(
        self, context: SessionContext, transport: asyncio.Transport, public_id: str, request: StreamRequest
    ) -> None:
        flags = (_VISIBLE_KEEPALIVES if request.visible_keepalives else 0) | (_ANSWERS if request.answers else 0)
        super().__init__(context, transport, public_id, counted=request.counted, flags=flags)

    def transmit(self, payload: Payload) -> None:
        """Send now; must not be called while busy."""
        if not self._flags & _OVER:
            self._transport.write(payload.event_chunk)

    def keepalive(self, ask: bool = False) -> bool:
        """Send a comment, the message that the client asked for, or the question whether it is there."""
        asked = ask and self._flags & _ANSWERS != 0
        self.transmit(ARE_YOU_THERE if asked else KEEPALIVE if self._flags & _VISIBLE_KEEPALIVES else COMMENT)
        return asked

    def _send_close(self, end: End) -> None:
        self._transport.write(sse_close_chunks(end))
        self._close_transport()


class DirectWebSocketSession(DirectSession):
    """
    A WebSocket after its handshake.

    Args:
        context: What it shares with the other streams of its server.
        transport: The socket.
        public_id: Of the connection.
        counted: False for a viewer's own stream, and for a stream that tabs share.
        make_check: Makes the check of the right to watch, when the peer subscribes. None: it will be refused at once.
    """

    __slots__ = ("_deciding", "_make_check", "_message", "_unread")

    def __init__(
        self,
        context: SessionContext,
        transport: asyncio.Transport,
        public_id: str,
        *,
        counted: bool,
        make_check: MakeCheck | None,
    ) -> None:
        self._make_check = make_check
        self._deciding: asyncio.Task[None] | None = None
        self._unread = b""
        """The beginning of a frame."""
        self._message: bytearray | None = None
        """The beginning of a message that comes in fragments."""
        # One that is refused at once never comes into the node, which must not hear of it.
        super().__init__(context, transport, public_id, counted=counted, flags=_OVER if make_check is None else 0)

    def refuse(self, code: int, reason: str) -> None:
        """Close a WebSocket that never came into the node."""
        self._send_close(NOT_AUTHORISED._replace(code=code, reason=reason))

    def transmit(self, payload: Payload) -> None:
        """Send now; must not be called while busy."""
        if not self._flags & _OVER:
            self._transport.write(payload.text_frame)

    def keepalive(self, ask: bool = False) -> bool:  # noqa: ARG002
        """Send a message: pages cannot see the protocol's own pings."""
        self.transmit(KEEPALIVE)
        return False

    def data_received(self, data: bytes) -> None:
        """Read frames, and receive their messages."""
        # Nearly always it is one short frame with a whole message.
        if (
            len(data) > 6
            and data[0] == _TEXT
            and _MASKED < data[1] < _MASKED + 126
            and len(data) == data[1] - _MASKED + 6
            and not self._unread
            and self._message is None
            and not self._flags & _OVER
        ):
            self._on_text(apply_mask(data[6:], data[2:6]))
            return
        reader = _Reader(self._unread + data if self._unread else data)
        try:
            while (frame := reader.frame()) is not None:
                self._on_frame(frame)
            self._unread = reader.rest()
        except PayloadTooBig:
            self._malformed(MALFORMED.because(TOO_LONG))
        except BadFrame as error:
            self._malformed(BAD_FRAME.because(f"The WebSocket frame is malformed: {error}."))
        except ProtocolError as error:
            self._malformed(end_of(error))

    def _on_text(self, data: bytes) -> None:
        """Receive one message."""
        if self._make_check is None:
            return
        node = self._context.node
        try:
            coroutine = node.on_message(self, messages.decode(data), self._check)
        except ProtocolError as error:
            self._malformed(end_of(error))
            return
        if coroutine is not None:
            self._deciding = self._context.loop.create_task(coroutine)

    def _check(self) -> AuthorizationCheck:
        assert self._make_check is not None
        return self._make_check()

    def _on_frame(self, frame: Frame) -> None:
        """
        Receive one frame. Raises `BadFrame` for one out of order, `TooLarge` for too long a message, and
        `TooManyMessages`.
        """
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            raise BadFrame("no extension was agreed upon")
        if self._flags & _CLOSING:
            if frame.opcode is Opcode.CLOSE:
                self._transport.close()
            return
        if not self._flags & _OVER and (frame.opcode > Opcode.CLOSE or not frame.fin):
            # The last frame of a message is charged as that message.
            self._context.node.charge(self)
        if frame.opcode is Opcode.PING:
            # A peer that sends pings and reads no pongs gets one when it reads again.
            if not self._flags & _PAUSED:
                self._transport.write(pong_frame(bytes(frame.data)))
        elif frame.opcode is Opcode.CLOSE:
            self._answer_close(bytes(frame.data))
        elif frame.opcode is not Opcode.PONG:
            self._on_data_frame(frame)

    def _on_data_frame(self, frame: Frame) -> None:
        if (frame.opcode is Opcode.CONT) != (self._message is not None):
            raise BadFrame("a fragment is out of order")
        data = bytes(frame.data)
        if self._message is not None:
            self._message += data
            if len(self._message) > messages.MAX_MESSAGE:
                raise TooLarge(TOO_LONG)
            data = bytes(self._message)
        elif not frame.fin:
            self._message = bytearray(data)
        if not frame.fin:
            return
        self._message = None
        self._on_text(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the figures: the peer is gone, or we closed."""
        super().connection_lost(exc)
        self._message = None
        self._unread = b""

    def _answer_close(self, data: bytes) -> None:
        try:
            code = Close.parse(data).code if data else 1000
        except BadFrame:
            code = 1002
        except UnicodeDecodeError:
            code = 1007
        if not self._flags & _OVER:
            self._leave(CLIENT, farewell=bool(data) and code in FAREWELLS)
        self._flags |= _CLOSING
        self._transport.write(close_frame(code))
        self._close_transport()

    def _malformed(self, end: End) -> None:
        self._unread = b""
        self._message = None
        if not self._flags & _OVER:
            if end.cause == MALFORMED.cause:
                self._context.node.counters["malformed"] += 1
            self.end(end)

    def _leave(self, cause: str, *, farewell: bool = False) -> None:
        super()._leave(cause, farewell=farewell)
        self._make_check = None
        if self._deciding is not None:
            self._deciding.cancel()
            self._deciding = None

    def _send_close(self, end: End) -> None:
        self._flags |= _CLOSING
        self._transport.write(websocket_close_frames(end))
        # The peer answers and then expects us to hang up. To do so before, with something of it unread, would make the
        # kernel reset the connection, and the peer might lose the close frame.
        self._context.loop.call_later(CLOSE_TIMEOUT, self._transport.abort)


class _Reader:
    """Reads whole frames from bytes at hand. Keeps nothing between two calls of the transport."""

    __slots__ = ("_at", "_data", "_done")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._done = 0

    def frame(self) -> Frame | None:
        """Return the next frame, or None when the rest is not a whole one."""
        parsing = Frame.parse(self._exactly, mask=True, max_size=messages.MAX_MESSAGE)
        try:
            next(parsing)
        except StopIteration as stop:
            self._done = self._at
            frame: Frame = stop.value
            return frame
        return None

    def rest(self) -> bytes:
        """Return what is left after the last whole frame: at most a header and `MAX_MESSAGE`."""
        return self._data[self._done :]

    def _exactly(self, size: int) -> Generator[None, None, bytes]:
        begin, self._at = self._at, self._at + size
        if self._at > len(self._data):
            yield
        return self._data[begin : self._at]
