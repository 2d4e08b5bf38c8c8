"""
Which protocol class uvicorn is given: ours where it is known to work, uvicorn's own where it is not.

Ours inherits from a class that uvicorn does not document, so it is tested with each of uvicorn's minor versions in
`TESTED` (tests/server/test_uvicorn_versions.py). With any other, streams stay on the ASGI path, and the log says so.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from ..app import Headcount

logger = logging.getLogger("headcount")

TESTED: Final = range(34, 55)
"""Minor versions of uvicorn 0.x."""


def protocol_class(
    headcount: "Headcount", beneath: ASGIApp | None = None, address: tuple[str, int] | None = None
) -> type[asyncio.Protocol]:
    """
    Return the class that takes over the streams of one Headcount, or uvicorn's own.

    Args:
        headcount: Whose streams.
        beneath: What it is wrapped round, when that has no part in what Headcount serves: no middleware, no session.
        address: That all connections come to, where there is only one; None: each has to be asked.
    """
    why = _obstacle()
    if why is not None:
        logger.warning("%s Streams are served over ASGI: they work the same and take more memory.", why)
        return AutoHTTPProtocol
    from .protocol import HeadcountProtocol

    own: dict[str, Any] = {"headcount": headcount, "address": address}
    if beneath is None:
        return type("HeadcountProtocol", (HeadcountProtocol,), own)
    from .first_request import FirstRequestProtocol
    from .serve_protocol import ServeProtocol

    own["beneath"] = staticmethod(beneath)
    ordinary = type("HeadcountProtocol", (ServeProtocol,), own)
    return type("HeadcountDoor", (FirstRequestProtocol,), {**own, "ordinary": ordinary, "commons": {}, "__slots__": ()})


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
