"""URLs of Redis backends, those of several sentinels included."""

import pytest

from headcount.core.redis_url import split_redis_url


def test_hosts_of_sentinels_may_be_addresses_of_both_kinds() -> None:
    parts = split_redis_url("redis+sentinel://:pw@one:26379,two,[::1]:26379/shop/2?sentinel_password=a")
    assert (parts.scheme, parts.netloc) == ("redis+sentinel", ":pw@one:26379,two,[::1]:26379")
    assert (parts.path, parts.query, parts.fragment) == ("/shop/2", "sentinel_password=a", "")


@pytest.mark.parametrize("url", ["redis+sentinel://one", "REDIS+SENTINEL://one?a=b", "redis+sentinel://"])
def test_parts_may_be_missing(url: str) -> None:
    parts = split_redis_url(url)
    assert parts.scheme == "redis+sentinel"
    assert parts.netloc == url.partition("://")[2].partition("?")[0]


def test_other_urls_are_split_as_python_does() -> None:
    parts = split_redis_url("rediss://user:pw@[::1]:6380/1")
    assert (parts.scheme, parts.hostname, parts.port, parts.path) == ("rediss", "::1", 6380, "/1")
    with pytest.raises(ValueError, match="IPv6"):
        split_redis_url("redis://[::1/0")
