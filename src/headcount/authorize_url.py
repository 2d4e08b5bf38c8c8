"""
Asking another server whether a viewer may watch (`--authorize-url`), for back ends in any language.

The URL gets the viewer's own cookies and Authorization header and nothing else; 2xx allows, anything else denies.
"""

from starlette.requests import HTTPConnection

from .authorize import AuthorizeHook
from .errors import ConfigError


def ask_url(url: str, timeout: float) -> AuthorizeHook:
    """
    Make an `authorize_stats` hook.

    Args:
        url: http:// or https://, fixed by the operator.
        timeout: Seconds for the whole exchange.

    Raises:
        ConfigError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigError("authorize_url needs httpx; run: pip install 'headcount[serve]'") from None

    async def ask(request: HTTPConnection) -> bool:
        headers = {name: request.headers[name] for name in ("cookie", "authorization") if name in request.headers}
        if not headers:
            return False  # a stranger; no need to ask anybody
        # A client for each question: questions are few, and a client belongs to one event loop.
        async with httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False) as client:
            response = await client.get(url, headers=headers)
        return response.is_success

    return ask
