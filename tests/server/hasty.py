"""
uvicorn that ends in the very moment in which its last stream has: whatever comes after that is too late each time.

uvicorn itself looks ten times a second whether streams are left, so it is too late elsewhere now and then.

Arguments: application, host, port, and `takeover` if Headcount takes the streams over.
"""

import os
import sys
from typing import Any

import uvicorn
from uvicorn.importer import import_from_string


class HastyServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state.connections = Remaining(self)
        self.server_state.tasks = Remaining(self)


class Remaining(set[Any]):
    """What uvicorn waits for."""

    def __init__(self, server: HastyServer) -> None:
        super().__init__()
        self._server = server

    def discard(self, member: Any) -> None:
        super().discard(member)
        state = self._server.server_state
        if self._server.should_exit and not state.connections and not state.tasks:
            os._exit(0)


if __name__ == "__main__":
    app, host, port, *takeover = sys.argv[1:]
    protocol = import_from_string(f"{app}_headcount").protocol if takeover else "auto"
    HastyServer(uvicorn.Config(app, host=host, port=int(port), http=protocol)).run()
