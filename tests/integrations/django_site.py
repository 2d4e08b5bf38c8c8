"""A Django application with its own middleware, wrapped as docs/frameworks.md says. A process has one of them."""

from typing import cast

from starlette.types import ASGIApp

from headcount import Headcount

LOG_IN = "/log-in"


def django_app(headcount: Headcount) -> ASGIApp:
    """Wrap an application with a session and CSRF protection, `LOG_IN`, and a POST at `/settings`."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def log_in(request: HttpRequest) -> HttpResponse:
        request.session["role"] = "admin"
        return HttpResponse()

    def change(_: HttpRequest) -> HttpResponse:
        return HttpResponse("changed")

    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["testserver", "shop.example"],
            SECRET_KEY="k",
            SESSION_ENGINE="django.contrib.sessions.backends.cache",
            CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
            INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
            ROOT_URLCONF=(path(LOG_IN[1:], log_in), path("settings", change)),
            SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
            MIDDLEWARE=[
                "django.middleware.security.SecurityMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "headcount.integrations.django.HeadcountMiddleware",
            ],
        )
        django.setup()
    return headcount.wrap(cast(ASGIApp, get_asgi_application()))
