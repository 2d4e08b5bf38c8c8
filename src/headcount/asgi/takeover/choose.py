"""
Which protocol class uvicorn gets: ours where it is known to work, uvicorn's own elsewhere.

Ours inherits from a class that uvicorn does not document, so it is tested with each of uvicorn's minor versions in
`TESTED` (tests/server/test_uvicorn_versions.py). With any other, streams stay on the ASGI path, and the log says so.
"""

import asyncio
import logging
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ..endpoints import Endpoints

logger = logging.getLogger("headcount")

TESTED: Final = range(34, 55)
"""Minor versions of uvicorn 0.x."""


def protocol_class(
    endpoints: Endpoints, wrapped_app: ASGIApp | None = None, address: tuple[str, int] | None = None
) -> type[asyncio.Protocol]:
    """
    Return the class that takes over the streams of one Headcount, or uvicorn's own.

    Args:
        endpoints: Of the Headcount whose streams are taken over.
        wrapped_app: The application that it is wrapped round, if that has no part in a request for Headcount: no
            middleware, no session. Then a stream is opened without ASGI.
        address: That all connections come to, where there is only one; None: each has to be asked.
    """
    obstacle = _obstacle()
    if obstacle is not None:
        logger.warning("%s Streams are served over ASGI: they work the same and use more memory.", obstacle)
        return AutoHTTPProtocol
    from .pending_heads import PendingHeads
    from .protocol import HeadcountProtocol

    pending = PendingHeads(endpoints.node.counters)
    endpoints.node.count_incomplete_requests = pending.count
    own: dict[str, Any] = {"endpoints": endpoints, "address": address, "pending": pending}
    if wrapped_app is None:
        return type("HeadcountProtocol", (HeadcountProtocol,), own)
    from .first_request import FirstRequestProtocol
    from .serve_protocol import ServeProtocol

    own["wrapped_app"] = staticmethod(wrapped_app)
    next_protocol = type("HeadcountProtocol", (ServeProtocol,), own)
    first: dict[str, Any] = {**own, "next_protocol": next_protocol, "templates": {}, "__slots__": ()}
    return type("HeadcountFirstRequestProtocol", (FirstRequestProtocol,), first)


def _obstacle() -> str | None:
    major, _, rest = uvicorn.__version__.partition(".")
    minor = rest.partition(".")[0]
    if major != "0" or not minor.isdecimal() or int(minor) not in TESTED:
        return (
            f"Headcount's protocol is tested with uvicorn 0.{TESTED[0]} to 0.{TESTED[-1]}, not with "
            f"{uvicorn.__version__}."
        )
    try:
        import httptools  # noqa: F401
        import websockets.frames  # noqa: F401
    except ImportError as error:
        return f"Headcount's protocol needs {error.name}; run: pip install 'headcount[serve]'."
    return None
