"""The worker class of docs/deployment.md, for gunicorn."""

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]


class HeadcountWorker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS = {**UvicornWorker.CONFIG_KWARGS, "http": "apps:mounted_headcount.protocol"}  # noqa: RUF012
