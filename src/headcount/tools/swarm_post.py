"""
The POSTs of the swarm's pages: one request on a connection of its own, and whether Headcount answered it.

Tests: tests/cli/test_swarm.py.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from ..client.access import content_type, foreign_post, printable_url, problem_detail, says_ok
from ..core.reconnect import PROBLEM, PostOutcome, post_outcome

_MAX_BODY: Final = 65_536
"""Bytes of an answer that are read. Headcount's own are shorter."""


class Answer(NamedTuple):
    """
    An answer to a POST.

    Attributes:
        outcome: What it means.
        sentence: What is wrong; "" if nothing is.
    """

    outcome: PostOutcome
    sentence: str


async def read_answer(reader: asyncio.StreamReader, url: str) -> Answer:
    """
    Read the answer to a POST to this URL.

    Raises:
        ConnectionError: It is not HTTP, or ends too early.
    """
    try:
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        protocol, status, *_ = start.split(" ")
        if not protocol.startswith("HTTP/") or not (status.isascii() and status.isdecimal() and len(status) == 3):
            raise ConnectionError("the answer is not HTTP")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return _judge(url, int(status), headers, await _read_body(reader, headers))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        raise ConnectionError("the answer is not complete, or not HTTP") from None


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    """Read the body; of one in several chunks, the first."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
    else:
        size = int(headers.get("content-length") or 0)
    return await reader.readexactly(max(0, min(size, _MAX_BODY)))


def _judge(url: str, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    kind = content_type(headers)
    outcome = post_outcome(status, kind, ok=says_ok(body))
    if outcome == "done":
        return Answer(outcome, "")
    detail = problem_detail(body) if kind == PROBLEM else ""
    return Answer(
        outcome, f"{printable_url(url)} answered {status}: {detail}" if detail else foreign_post(url, status, kind)
    )
