"""Splits the URL of a Redis backend."""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

_NETLOC: Final = re.compile(r"[^/?#]*")


def split_redis_url(url: str) -> SplitResult:
    """
    Split a URL such as `redis://host:6379/0`, or `redis+sentinel://one:26379,[::1]:26379/shop/0`.

    Newer versions of Python refuse several hosts in one URL when one of them is an IPv6 address, so the hosts of
    sentinels are put aside meanwhile. `hostname` and `port` of that result mean nothing; `netloc` has all hosts.

    Raises:
        ValueError: It is no URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.casefold().endswith("+sentinel"):
        return urlsplit(url)
    found = _NETLOC.match(rest)
    assert found is not None
    return urlsplit(f"{scheme}://hosts{rest[found.end() :]}")._replace(netloc=found[0])
