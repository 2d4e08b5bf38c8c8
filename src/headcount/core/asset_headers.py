"""
The headers of files that are served: which names may be cached for ever, which range and encoding a request asks for.

Tests: tests/core/test_asset_headers.py.
"""

import re
from typing import Final, NamedTuple

IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""For a name with a hash of the content in it: what changes has another name. A year is for ever to caches."""

REVALIDATED: Final = "no-cache"
"""For any other name: a cache asks each time whether the file has changed."""

_ENDING: Final = re.compile(r"\.(?:[a-z][a-z0-9]{0,4}|webmanifest)(?:\.(?:map|br|gz))?$")
_HEX: Final = re.compile(r"(?:^|[-._])([0-9a-f]{8,64})$")
_EIGHT: Final = re.compile(r"(?:^(?=[A-Za-z0-9]{8}$)|[-._])([A-Za-z0-9_-]{8})$")
_UPPER: Final = re.compile(r"(?=.*[A-Z])[A-Z0-9]{8}")
_CODE: Final = re.compile(r"\.(?:m?js|css)(?:\.|$)")
_NO_HASH: Final = re.compile(r"[A-Za-z]?[a-z_-]*(?:[A-Z][a-z_-]+)*\d*|[A-Z_-]+\d*|[\d_-]+|\d+x\d+")
"""A word or several, also with a number behind; a date; the size of a picture."""

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_MAX_ENCODINGS: Final = 32

_TYPES: Final = {
    "avif": "image/avif",
    "css": "text/css; charset=utf-8",
    "gif": "image/gif",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/vnd.microsoft.icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "map": "application/json",
    "mjs": "text/javascript; charset=utf-8",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ogg": "audio/ogg",
    "otf": "font/otf",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "ttf": "font/ttf",
    "txt": "text/plain; charset=utf-8",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xml": "text/xml; charset=utf-8",
}
"""Types of what bundlers emit. Those of the machine differ: many have no type for `.mjs` or `.woff2`."""


def is_hashed(name: str) -> bool:
    """
    Say whether a file's name has a hash of its content in it, as bundlers write it: `index-BIZOYYNN.js`,
    `main.8e3f1a2b.css`, `BxYz12ab.js`.

    A wrong yes would keep an old file in caches for a year, a wrong no costs a request that is answered with 304. So
    what may be a word or a date is none: `inter-SemiBold.woff2`, `photo-IMG_2024.jpg`, `report-20241105.pdf`. Capitals
    are one in scripts and style sheets, where esbuild writes them and people do not.
    """
    stem, found = _ENDING.subn("", name)
    if not found:
        return False
    if (digits := _HEX.search(stem)) is not None:
        return not digits[1].isdigit() and not digits[1].isalpha()
    token = _EIGHT.search(stem)
    if token is None:
        return False
    if _UPPER.fullmatch(token[1]) and _CODE.search(name):
        return True
    return _NO_HASH.fullmatch(token[1]) is None


def content_type(name: str) -> str:
    """Return the content type for a file's name."""
    return _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


class Span(NamedTuple):
    """A part of a file: its first byte, and how many."""

    start: int
    size: int


def parse_range(header: str | None, size: int) -> Span | None:
    """
    Return the part of a file that a request asks for.

    Args:
        header: `Range`; None: there is none.
        size: Of the file, in bytes.

    Returns:
        The part; of size 0 if the file has no such part. None for the whole file: also for several ranges, which a
        server need not send, and which cost it most.
    """
    found = _RANGE.fullmatch(header.strip()) if header is not None and len(header) < 64 else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start = max(0, size - int(found[2]))
        return Span(start, size - start)
    start, last = int(found[1]), int(found[2] or size)
    if found[2] and last < start:
        return None  # no range, as RFC 9110 has it
    return Span(start, max(0, min(last + 1, size) - start))


def accepted_encodings(header: str | None) -> list[str]:
    """Return the content encodings that a request names and does not refuse; `*` names none."""
    found = []
    for part in (header or "").split(",")[:_MAX_ENCODINGS]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name and not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters):
            found.append(name)
    return found


def etag(size: int, encoding: str, times: tuple[float, float] | None) -> str:
    """
    Return the entity tag of a file, of its name.

    Args:
        size: In bytes.
        encoding: Its content encoding; empty: none.
        times: When its build was deployed and when it was written; None: its name has a hash, so that it is the same
            in every build and on every server.
    """
    parts = [f"{size:x}", *(f"{round(time * 1e6):x}" for time in times or ()), *([encoding] if encoding else [])]
    return f'"{"-".join(parts)}"'


def matches(header: str, etag: str) -> bool:
    """Say whether `If-None-Match` names an entity tag. It compares weakly, as RFC 9110 has it."""
    return header.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in header.split(",")]
