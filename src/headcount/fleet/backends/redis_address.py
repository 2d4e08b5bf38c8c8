"""
Where Redis is: what a URL means, how to connect, and what to do when that fails.

Tests: tests/fleet/backends/test_redis.py, tests/server/test_fleet.py, tests/test_config.py.
"""

from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlunsplit

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.sentinel import Sentinel
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from ...core.redis_url import split_redis_url
from ...errors import ConfigError


class NoShardError(Exception):
    """No node of a cluster serves the slot of this fleet's keys."""


async def resolve(url: str, timeout: float) -> dict[str, Any]:
    """
    Return redis-py's arguments for a connection to a URL; asks the sentinels, if the URL names them.

    Args:
        url: As `RedisBackend` takes it.
        timeout: Seconds for each sentinel.
    """
    parts = split_redis_url(url)
    if not parts.scheme.endswith("+sentinel"):
        return dict(parse_url(url))
    scheme = parts.scheme.removesuffix("+sentinel")
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    options = dict(parse_qsl(parts.query))
    sentinel_options = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "26379")
        sentinels.append((name.strip("[]"), int(port)))
    arguments = dict(
        parse_url(urlunsplit((scheme, f"{credentials}@x" if credentials else "x", database, urlencode(options), "")))
    )
    timeouts = {"socket_connect_timeout": timeout, "socket_timeout": timeout}
    sentinel = Sentinel(sentinels, sentinel_kwargs={**sentinel_options, **timeouts})  # type: ignore[no-untyped-call]
    try:
        host, port = await sentinel.discover_master(unquote(service))
    finally:
        for one in sentinel.sentinels:
            await one.aclose()
    return {**arguments, "host": host, "port": int(port)}


def database(url: str) -> int:
    """
    Return the number of the database that a URL names; 0 by default.

    Args:
        url: As `RedisBackend` takes it.
    """
    parts = split_redis_url(url)
    if parts.scheme.endswith("+sentinel"):
        number = parts.path.strip("/").partition("/")[2] or dict(parse_qsl(parts.query)).get("db", "0")
        return int(number) if number.isdecimal() else 0
    arguments: dict[str, Any] = dict(parse_url(url))
    return arguments.get("db") or 0


def prefix_of(fleet: str) -> str:
    """Return how the keys of a fleet begin."""
    return f"{{headcount:{fleet}}}"


def channel_prefix(url: str, fleet: str) -> str:
    """Return how the channels of a fleet begin: no other fleet on that server has the same."""
    number = database(url)
    return f"{prefix_of(fleet)}:1@{number}" if number else f"{prefix_of(fleet)}:1"


async def find_shard(arguments: dict[str, Any], key: str, timeout: float) -> tuple[dict[str, Any], bool]:
    """
    Find the shard of a cluster that has a key.

    Returns:
        How to connect to it, and whether it is a cluster.

    Raises:
        NoShardError: It is a cluster, and none of its nodes has the key.
    """
    connection = await connect(arguments, timeout)
    try:
        await connection.send_command("CLUSTER", "SLOTS", check_health=False)
        slots = await connection.read_response(disable_decoding=True)
    except ResponseError:
        return arguments, False  # no cluster, or this user may not ask
    finally:
        await connection.disconnect(nowait=True)
    slot = key_slot(key.encode())
    for start, end, owner, *_ in slots:
        if start <= slot <= end:
            host = owner[0].decode() if owner[0] else arguments.get("host", "localhost")
            return {**arguments, "host": host, "port": int(owner[1])}, True
    raise NoShardError(f"no node of the cluster serves slot {slot}")


async def connect(arguments: dict[str, Any], timeout: float) -> Connection:
    """Open a connection. Reads on it do not time out: messages come when they come, and each answer has a limit."""
    options = {**arguments, "protocol": 2, "socket_connect_timeout": timeout, "socket_timeout": None}
    kind = options.pop("connection_class", Connection)
    connection: Connection = kind(**options)
    await connection.connect()  # type: ignore[no-untyped-call]
    return connection


def check(url: str, shown: str) -> None:
    """
    See that redis-py knows the options of a URL; opens nothing.

    Args:
        url: As `RedisBackend` takes it.
        shown: The same, fit for logs.

    Raises:
        ConfigError: The URL has an unknown option, or a value that its option does not accept.
    """
    parts = split_redis_url(url)
    asked = [(name, value) for name, value in parse_qsl(parts.query) if not _is_of_sentinels(parts.scheme, name)]
    scheme = parts.scheme.removesuffix("+sentinel")
    host = "" if scheme == "unix" else "x"
    try:
        options: dict[str, Any] = dict(
            parse_url(urlunsplit((scheme, host, "/0" if host else "/x", urlencode(asked), "")))
        )
        options.pop("connection_class", Connection)(**options)
    except (TypeError, ValueError, RedisError) as error:
        said = str(error).rpartition("() ")[2]  # without the name of the function that was called
        raise ConfigError(
            f"The backend {shown} has an option that redis-py does not take ({said}); correct it, or leave it out."
        ) from None


def _is_of_sentinels(scheme: str, name: str) -> bool:
    return scheme.endswith("+sentinel") and name in ("sentinel_username", "sentinel_password")


_ADVICE: Final = (
    (
        ("WRONGPASS", "NOAUTH", "Authentication required", "invalid username-password", "without any password"),
        "Correct the user and password in its URL.",
    ),
    (("NOPERM", "no permissions"), "docs/deployment.md lists the permissions that its user needs."),
    (("READONLY", "read only replica"), "This is a replica; give the address of the primary or of its sentinels."),
    (
        ("unknown command", "syntax error", "wrong number of arguments"),
        "Headcount needs Redis 7 or Valkey 7, or newer.",
    ),
    (("DB index", "invalid DB"), "This database does not exist; leave the number out to use database 0."),
    (("certificate verify failed",), "Add the authority that signed its certificate to the URL: ?ssl_ca_certs=/path."),
)
"""What servers and libraries say, and what to do then."""


def advice_for(error: Exception, url: str) -> tuple[str, bool]:
    """
    Return a sentence on what to do when Redis cannot be used, and whether that is it for sure.

    Args:
        error: What happened.
        url: Of Redis; empty when the fault is not in there, because it could be used before.
    """
    said = str(error).casefold()
    for words, sentence in _ADVICE:
        if any(word.casefold() in said for word in words):
            return sentence, True
    scheme = split_redis_url(url).scheme.partition("+")[0]
    if scheme == "rediss" and ("ssl" in said or "timeout" in said or isinstance(error, TimeoutError | RedisTimeout)):
        return "Check that it runs and can be reached from here; if it does not use TLS, write redis://.", False
    if scheme == "redis" and "closed by server" in said:
        return "If it accepts only TLS, write rediss://.", False
    return "Check that it runs and can be reached from here.", False
