"""
`headcount serve`, observed: the same server, which also does what a benchmark cannot ask for from outside.

SIGUSR1 broadcasts one message of 200 bytes to all pages. SIGUSR2 writes `{"gcPause": longest collection so far in
seconds}` to the file that `OBSERVED` names, and starts over.
"""

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headcount.asgi.app import Headcount
from headcount.cli import main
from headcount.core import messages
from headcount.core.payload import Payload
from headcount.server import serve

MESSAGE = messages.application({"type": "sale", "text": "x" * 174})

_headcounts: list[Headcount] = []
_pause = _started = 0.0


def _serve(make: Callable[[], Headcount], *args: Any, **options: Any) -> bool:
    def made() -> Headcount:
        _headcounts.append(make())
        return _headcounts[-1]

    return _original(made, *args, **options)


def _broadcast(*_: object) -> None:
    for headcount in _headcounts:
        for session in list(headcount.node.sessions.values())[:1]:
            session.loop.call_soon_threadsafe(headcount.node.notices.deliver_all, Payload(MESSAGE))


def _watch(phase: str, _info: dict[str, int]) -> None:
    global _pause, _started
    if phase == "start":
        _started = time.perf_counter()
    else:
        _pause = max(_pause, time.perf_counter() - _started)


def _write(*_: object) -> None:
    global _pause
    Path(os.environ["OBSERVED"]).write_text(json.dumps({"gcPause": _pause}))
    _pause = 0.0


if __name__ == "__main__":
    _original = serve.serve
    serve.serve = _serve
    signal.signal(signal.SIGUSR1, _broadcast)
    signal.signal(signal.SIGUSR2, _write)
    gc.callbacks.append(_watch)
    sys.argv = ["headcount", "serve", *sys.argv[1:]]
    main()
