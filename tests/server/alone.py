"""What `headcount serve` runs, round an application that the tests can look inside of: `alone.py HOST PORT`."""

import sys
from pathlib import Path

import uvicorn

from headcount.asgi.app import endpoints_of
from headcount.asgi.takeover.choose import protocol_class

sys.path.insert(0, str(Path(__file__).parents[1]))
from server.apps import wrapped, wrapped_app, wrapped_headcount

if __name__ == "__main__":
    uvicorn.run(
        wrapped,
        host=sys.argv[1],
        port=int(sys.argv[2]),
        http=protocol_class(endpoints_of(wrapped_headcount), wrapped_app=wrapped_app),
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
