"""
Asking another server whether a viewer may watch (`--authorize-url`), for back ends in any language.

The URL gets the viewer's own cookies and Authorization header and nothing else; 2xx allows, anything else denies.
"""

from starlette.requests import HTTPConnection

from ..errors import ConfigError
from .authorizer import AuthorizeHook


def ask_url(url: str, timeout: float) -> AuthorizeHook:
    """
    Make an `authorize_stats` hook.

    Args:
        url: http:// or https://, fixed by the operator.
        timeout: Seconds for the whole exchange.

    Raises:
        ConfigError: httpx2 is not installed.
    """
    try:
        import httpx2
    except ImportError:
        raise ConfigError("authorize_url needs httpx2; run: pip install 'headcount[serve]'") from None

    # Reading all certificates takes longer than the request, and strangers can cause requests.
    trusted = httpx2.create_ssl_context(trust_env=False)

    async def ask(request: HTTPConnection) -> bool:
        # As they came: a header may hold any byte, and HTTP/2 splits Cookie into several lines.
        credentials = [
            (name, value) for name, value in request.scope["headers"] if name in (b"cookie", b"authorization")
        ]
        if not credentials:
            return False  # a stranger; no request is needed
        cookies = b"; ".join(value for name, value in credentials if name == b"cookie")
        headers = [(name, value) for name, value in credentials if name != b"cookie"]
        if cookies:
            headers.append((b"cookie", cookies))
        # A client for each question: questions are few, and a client belongs to one event loop.
        async with (
            httpx2.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False, verify=trusted) as client,
            client.stream("GET", url, headers=headers) as response,  # the status says all; a body may be long
        ):
            return response.is_success

    return ask
