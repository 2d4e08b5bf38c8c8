"""
Django: `authorize_stats` meets Django's own session and user.

In `asgi.py`:

    application = headcount.wrap(get_asgi_application())

In `settings.py`, below the session and authentication middleware:

    MIDDLEWARE = [..., "headcount.integrations.django.HeadcountMiddleware"]

Then `request.user` and `request.session` of the hook are Django's.

Tests: tests/integrations/test_wrapped_frameworks.py.
"""

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from ..authorization.inner_request import is_inner


class HeadcountMiddleware:
    """Puts session and user of an inner request into its scope and answers it; every other request passes untouched."""

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve one request."""
        scope = getattr(request, "scope", None)
        if scope is None or not is_inner(scope):
            return await self._get_response(request)
        if hasattr(request, "session"):
            # Read now, in a thread: Django allows no query from the event loop, and the hook may run there.
            await sync_to_async(request.session.keys)()
            scope["session"] = request.session
        if hasattr(request, "auser"):
            scope["user"] = await request.auser()
        return HttpResponse(status=204)
