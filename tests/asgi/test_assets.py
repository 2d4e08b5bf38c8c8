"""Files of kept builds over plain receive and send: which build answers, what headers tell caches, what is refused."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.types import Message

from headcount import Assets, ConfigError
from headcount.asgi.assets import CHUNK, GONE
from headcount.build_directory import BuildDirectory

from .asgi_client import asynchronous
from .asset_client import BIG, BYTES, NEW, OLD, ask, put_builds


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """Two builds; at the end, none of their files may be open."""
    put_builds(tmp_path)
    yield tmp_path
    opened = []
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            opened.append(os.readlink(f"/proc/self/fd/{each}"))
    assert not [path for path in opened if path.startswith(str(tmp_path))]


@pytest.fixture
def assets(top: Path) -> Assets:
    return Assets(top, "{build}/assets")


@asynchronous
async def test_each_file_comes_from_the_newest_build_that_has_it(top: Path) -> None:
    assets = Assets(str(top), "{build}/assets")
    assert (await ask(assets, f"/{NEW}"))[::2] == (200, b"new")
    assert (await ask(assets, f"/{OLD}"))[::2] == (200, b"old")
    assert (await ask(assets, "/logo.svg")).body == b"<svg>2</svg>"
    (top / "v3/assets").mkdir(parents=True)
    (top / "v3/assets/logo.svg").write_text("<svg>3</svg>")
    assert (await ask(assets, "/logo.svg")).body == b"<svg>3</svg>", "without a restart"


@asynchronous
async def test_hashed_names_are_cached_for_ever_and_others_are_asked_for_again(assets: Assets) -> None:
    assert (await ask(assets, f"/{NEW}")).headers == {
        "accept-ranges": "bytes",
        "cache-control": "public, max-age=31536000, immutable",
        "content-length": "3",
        "content-type": "text/javascript; charset=utf-8",
        "etag": (await ask(assets, f"/{NEW}")).headers["etag"],
        "last-modified": (await ask(assets, f"/{NEW}")).headers["last-modified"],
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
    }
    logo = (await ask(assets, "/logo.svg")).headers
    assert (logo["cache-control"], logo["content-type"]) == ("no-cache", "image/svg+xml")


@asynchronous
async def test_names_of_another_bundler_are_recognised_by_a_pattern(top: Path) -> None:
    assets = Assets(top, "{build}/assets", hashed=r"logo\.\w+")
    assert "immutable" in (await ask(assets, "/logo.svg")).headers["cache-control"]
    assert (await ask(assets, f"/{NEW}")).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        *("/missing-B1zOyYnN.js", "/", "//", "", "/cart", f"/{NEW}/", f"//{NEW}", "/index.html", "/../index.html"),
        *("/../../v2/assets/logo.svg", "/./logo.svg", "/.env", "/logo.svg\0", "/a\\..\\logo.svg", "/\ud800"),
        *("/" + "a" * 5_000, "/" + "a/" * 500, "/" + "a" * 300 + ".js", "/..%2findex.html"),
    ],
)
@asynchronous
async def test_what_no_build_has_is_404_and_never_html_or_cached(assets: Assets, path: str) -> None:
    status, headers, body = await ask(assets, path)
    assert (status, body.decode()) == (404, GONE)
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"


@asynchronous
async def test_a_precompressed_file_is_sent_to_who_understands_it(assets: Assets) -> None:
    brotli = await ask(assets, f"/{NEW}", {"accept-encoding": "gzip, deflate, br, zstd"})
    gzip = await ask(assets, f"/{NEW}", {"accept-encoding": "gzip, br;q=0"})
    plain = await ask(assets, f"/{NEW}", {"accept-encoding": "zstd"})
    assert [each.body for each in (brotli, gzip, plain)] == [b"br", b"gz", b"new"]
    assert [each.headers.get("content-encoding") for each in (brotli, gzip, plain)] == ["br", "gzip", None]
    assert {each.headers["content-type"] for each in (brotli, gzip, plain)} == {"text/javascript; charset=utf-8"}
    assert {each.headers["vary"] for each in (brotli, gzip, plain)} == {"accept-encoding"}
    assert len({each.headers["etag"] for each in (brotli, gzip, plain)}) == 3


@asynchronous
async def test_who_has_the_file_is_told_so(assets: Assets) -> None:
    whole = await ask(assets, f"/{NEW}")
    for headers in (
        {"if-none-match": whole.headers["etag"]},
        {"if-none-match": f'"x", W/{whole.headers["etag"]}', "range": "bytes=0-0"},
        {"if-modified-since": whole.headers["last-modified"]},
    ):
        status, found, body = await ask(assets, f"/{NEW}", headers)
        assert (status, body) == (304, b"")
        assert found == {
            name: whole.headers[name]
            for name in ("cache-control", "etag", "last-modified", "vary", "x-content-type-options")
        }
    for headers in (
        {"if-none-match": '"x"', "if-modified-since": whole.headers["last-modified"]},
        {"if-none-match": ""},
        {"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if-modified-since": "yesterday"},
        {"if-modified-since": "Thu, 01 Jan 99999999999 00:00:00 GMT"},
    ):
        assert (await ask(assets, f"/{NEW}", headers)).status == 200


@asynchronous
async def test_a_file_of_a_new_build_is_another_one_though_its_time_and_size_are_the_same(
    top: Path, assets: Assets
) -> None:
    before = (await ask(assets, "/logo.svg")).headers
    (top / "v3/assets").mkdir(parents=True)
    (top / "v3/assets/logo.svg").write_text("<svg>3</svg>")
    os.utime(top / "v3/assets/logo.svg", (0, 0))
    for headers in ({"if-none-match": before["etag"]}, {"if-modified-since": before["last-modified"]}):
        assert (await ask(assets, "/logo.svg", headers))[::2] == (200, b"<svg>3</svg>")
    hashed = (await ask(assets, f"/{OLD}")).headers["etag"]
    (top / "v3/assets" / OLD).write_text("old")
    assert (await ask(assets, f"/{OLD}", {"if-none-match": hashed})).status == 304, "its name says that it is the same"


@asynchronous
async def test_a_part_of_a_file_is_sent_and_a_part_that_is_not_there_is_refused(assets: Assets) -> None:
    tag = (await ask(assets, f"/{BIG}")).headers["etag"]
    for header, start, end in (
        ("bytes=5-9", 5, 10),
        ("bytes=-3", len(BYTES) - 3, len(BYTES)),
        (f"bytes=10-{2 * CHUNK}", 10, 2 * CHUNK + 1),
    ):
        status, headers, body = await ask(assets, f"/{BIG}", {"range": header, "if-range": tag})
        assert (status, body) == (206, BYTES[start:end])
        assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(BYTES)}"
        assert headers["content-length"] == str(len(body))
    refused = await ask(assets, f"/{BIG}", {"range": f"bytes={len(BYTES)}-"})
    assert (refused.status, refused.headers["content-range"], refused.body) == (416, f"bytes */{len(BYTES)}", b"")
    for headers in ({"range": "bytes=0-0", "if-range": '"other"'}, {"range": "bytes=0-0,5-9"}, {"range": "nonsense"}):
        assert (await ask(assets, f"/{BIG}", headers))[::2] == (200, BYTES)


@asynchronous
async def test_head_is_get_without_the_body_and_nothing_can_be_written(assets: Assets) -> None:
    for path in (f"/{NEW}", f"/{BIG}"):
        head, get = await ask(assets, path, method="HEAD"), await ask(assets, path)
        assert (head.status, head.headers, head.body) == (200, get.headers, b"")
    missing, gone = await ask(assets, "/missing.js", method="HEAD"), await ask(assets, "/missing.js")
    assert (missing.status, missing.headers, missing.body) == (404, gone.headers, b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = await ask(assets, f"/{NEW}", method=method)
        assert (status, headers["allow"], headers["cache-control"]) == (405, "GET, HEAD", "no-store")


@asynchronous
async def test_a_build_that_is_deleted_while_its_file_is_sent_is_sent_to_the_end(top: Path, assets: Assets) -> None:
    builds = BuildDirectory(top)

    def delete() -> None:
        assert builds.delete(builds.builds()[-1])

    assert (await ask(assets, f"/{BIG}", before_body=delete))[::2] == (200, BYTES)
    assert os.listdir(top) == ["v2"]
    assert (await ask(assets, f"/{BIG}")).status == 404


@asynchronous
async def test_a_reader_that_goes_away_ends_the_reading(assets: Assets) -> None:
    sent: list[int] = []

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        sent.append(len(message.get("body", b"")))

    scope = {"type": "http", "method": "GET", "path": f"/{BIG}", "headers": [], "root_path": ""}
    await assets(scope, gone, send)
    assert sum(sent) < len(BYTES)


@asynchronous
async def test_a_file_that_is_cut_while_it_is_sent_ends_early(top: Path, assets: Assets) -> None:
    sent: list[Message] = []

    async def wait() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        os.truncate(top / "v1/assets" / BIG, CHUNK)

    await assets({"type": "http", "method": "GET", "path": f"/{BIG}", "headers": [], "root_path": ""}, wait, send)
    assert [len(message["body"]) for message in sent[1:]] == [CHUNK]
    assert sent[-1]["more_body"], "the server sees that the answer is not whole"


@asynchronous
async def test_a_directory_that_is_away_is_503_and_one_line_in_the_log(
    top: Path, assets: Assets, caplog: pytest.LogCaptureFixture
) -> None:
    os.rename(top, f"{top}-moved")
    try:
        with caplog.at_level(logging.ERROR, "headcount"):
            answers = [await ask(assets, f"/{NEW}") for _ in range(3)]
    finally:
        os.rename(f"{top}-moved", top)
    assert {(each.status, each.headers["retry-after"], each.headers["cache-control"]) for each in answers} == {
        (503, "1", "no-store")
    }
    assert caplog.messages == [
        f"Assets cannot read {top}: No such file or directory. Requests get status 503 until it can be read."
    ]
    assert (await ask(assets, f"/{NEW}")).status == 200


def test_wrong_arguments_are_refused_at_start(top: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        Assets(top / "none")
    with pytest.raises(ConfigError, match="builds is 'assets'"):
        Assets(top, "assets")
    with pytest.raises(ConfigError, match=r"hashed is '\(', which is no regular expression: missing \), "):
        Assets(top, hashed="(")


@asynchronous
async def test_other_protocols_are_answered(assets: Assets) -> None:
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    await assets({"type": "lifespan"}, receive, send)
    messages = iter([{"type": "websocket.connect"}])
    await assets({"type": "websocket", "path": f"/{NEW}"}, receive, send)
    assert [message["type"] for message in sent] == [
        *("lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close")
    ]
