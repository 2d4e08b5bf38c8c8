"""Test clients without a server: one that streams works, and one that would hang says why."""

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from headcount import Headcount
from headcount.asgi import buffering_clients

pytestmark = pytest.mark.timeout(30)


def application() -> Starlette:
    """Return an application with Headcount in it."""
    app = Starlette()
    app.mount("/__skew", Headcount(version="1"))
    return app


def test_a_stream_under_the_test_client_ends_with_the_test() -> None:
    with (
        TestClient(application()) as client,
        client.stream("GET", "/__skew/sse") as response,
    ):
        assert "connected" in next(line for line in response.iter_lines() if line.startswith("data"))


def test_a_test_client_that_does_not_stream_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering_clients, "_test_client_streams", lambda: False)
    with TestClient(application()) as client, pytest.raises(RuntimeError, match=r"starlette>=1\.9"):
        client.get("/__skew/sse")


@pytest.mark.parametrize(
    ("installed", "streams"), [("0.46.2", False), ("1.8.0", False), ("1.9.0", True), ("2.0", True)]
)
def test_the_version_of_starlette_decides(installed: str, streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering_clients, "version", lambda _: installed)
    buffering_clients._test_client_streams.cache_clear()
    try:
        assert buffering_clients._test_client_streams() is streams
    finally:
        buffering_clients._test_client_streams.cache_clear()


@pytest.mark.anyio
@pytest.mark.parametrize("client_address", [("127.0.0.1", 123), ("192.0.2.1", 5)])
async def test_asgi_transport_says_so(client_address: tuple[str, int]) -> None:
    transport = httpx2.ASGITransport(application(), client=client_address)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/__skew/health")).status_code == 200
        with pytest.raises(RuntimeError, match="ASGITransport"):
            await client.get("/__skew/sse")
