"""Names that may be cached for ever, ranges, encodings and types of files that are served."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headcount.core.asset_headers import accepted_encodings, content_type, etag, is_hashed, matches, parse_range


@pytest.mark.parametrize(
    "name",
    [
        "index-B1zOyYnN.js",
        "index-B-xY4z_2.js",
        "index-BIZOYYNN.css",
        "main-5AB3CDEF.mjs",
        "main.8e3f1a2b.css",
        "main.8e3f1a2b9c0d4e5f6a7b.js",
        "BxYz12ab.js",
        "index-B1zOyYnN.js.map",
        "logo-dQw4w9Wg.svg",
        "inter-latin-D3x_k9Qa.woff2",
        "index-B1zOyYnN.js.br",
    ],
)
def test_names_of_bundlers_are_hashed(name: str) -> None:
    assert is_hashed(name)


@pytest.mark.parametrize(
    "name",
    [
        *("index.html", "favicon.ico", "app.js", "polyfill.js", "vendor-polyfill.js", "manifest.webmanifest"),
        *(
            "inter-SemiBold.woff2",
            "Roboto-Regular.woff2",
            "photo-IMG_2024.jpg",
            "img-DSC_0012.jpg",
            "slide-picture1.png",
        ),
        *(
            "report-20241105.pdf",
            "report-24-11-05.pdf",
            "img-1024x768.png",
            "jquery-20241105.min.js",
            "data-METADATA.json",
        ),
        *("service-worker.js", "sw.js", "B1zOyYnN", "index-B1zOyYnN", "deadbeef.txt", "a-1a2b3c.js", "", ".", "x."),
    ],
)
def test_words_dates_and_sizes_are_not(name: str) -> None:
    assert not is_hashed(name)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 8)),
        ("bytes=2-99", (2, 8)),
        ("BYTES=9-9", (9, 1)),
        ("bytes=-3", (7, 3)),
        ("bytes=-99", (0, 10)),
        ("bytes=-0", (10, 0)),
        ("bytes=10-", (10, 0)),
        ("bytes=99-100", (99, 0)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=0-1, 3-4", None),
        ("lines=0-1", None),
        ("bytes=\u0661-\u0662", None),
        ("bytes=" + "9" * 19 + "-", None),
        ("bytes=" + "0-1," * 10_000, None),
    ],
)
def test_one_range_is_read_and_all_else_is_the_whole_file(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == part


@given(
    st.text(alphabet="bytes=-0123456789, ", max_size=24) | st.from_regex(r"bytes=\d{0,4}-\d{0,4}"),
    st.integers(0, 9_999),
)
@example("bytes=-1", 0)
@example("bytes=0-0", 0)
def test_a_range_never_leads_beyond_the_file(header: str, size: int) -> None:
    part = parse_range(header, size)
    if part is not None and part.size:
        assert 0 <= part.start < part.start + part.size <= size


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (None, []),
        ("gzip, deflate, br", ["gzip", "deflate", "br"]),
        ("br;q=0, gzip;q=0.5", ["gzip"]),
        ("BR ; q = 0.000, GZIP", ["gzip"]),
        ("br;q=0.001", ["br"]),
        ("*", ["*"]),
        (",,;q=1", []),
        ("a," * 31 + "gzip,br", ["a"] * 31 + ["gzip"]),
    ],
)
def test_encodings_that_are_refused_are_left_out(header: str | None, names: list[str]) -> None:
    assert accepted_encodings(header) == names


def test_tags_are_compared_weakly_and_whole() -> None:
    assert matches('W/"a-1", "b"', '"a-1"')
    assert matches(" * ", '"a"')
    assert not matches('"a-12"', '"a-1"')


def test_tags_of_hashed_names_are_the_same_everywhere_and_others_are_of_one_deployment() -> None:
    assert etag(255, "", None) == '"ff"'
    assert etag(255, "br", None) == '"ff-br"'
    others = [
        etag(size, code, (a, b)) for size in (1, 2) for code in ("", "br") for a in (1.0, 2.5) for b in (0.0, -1.0)
    ]
    assert len(set(others)) == len(others)
    assert all('"' not in tag[1:-1] and tag[0] == tag[-1] == '"' for tag in others)


def test_types_do_not_depend_on_the_machine() -> None:
    assert content_type("a.MJS") == content_type("b.js") == "text/javascript; charset=utf-8"
    assert content_type("a.js.br") == content_type("noname") == "application/octet-stream"
    assert content_type("a.webmanifest") == "application/manifest+json"
