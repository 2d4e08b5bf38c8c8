"""Every setting: its default, where it comes from, and the sentence about a wrong one."""

import ipaddress
import subprocess
import sys
from typing import Any

import pytest

from headcount import Headcount
from headcount.config import VERSION_VARIABLES, Config, without_password
from headcount.errors import ConfigError, NoVersion, WrongSetting

DEFAULTS: dict[str, Any] = {
    # CONTRACT.md
    "update_strategy": "auto",
    "connection_tracking": True,
    "route_tracking": False,
    "ip_tracking": False,
    "base_path": "/__skew",
    "cookie": "__nkpv",
    "backend": "auto",
    "viewer_timeout": 10.0,
    "reauthorize_interval": 60.0,
    "max_listed_connections": 1_000,
    "max_versions": 1_000,
    "max_routes": 10_000,
    # docs/settings.md
    "admin_token": None,
    "metrics_token": None,
    "authorize_url": None,
    "authorize_headers": (),
    "allowed_origins": (),
    "public_origins": (),
    "allowed_hosts": (),
    "trusted_proxies": (),
    "stats_interval": 0.25,
    "keepalive_interval": 15.0,
    "peer_timeout": 30.0,
    "send_timeout": 10.0,
    "authorize_timeout": 10.0,
    "hook_timeout": 30.0,
    "body_timeout": 10.0,
    "reconnect_spread": 5.0,
    "unaccounted_grace": 120.0,
    "settle_time": 30.0,
    "state_file": None,
    "known_versions": (),
    "max_connections": None,
    "max_connections_per_address": None,
    "max_opens_per_second": None,
    "max_queued_messages": 64,
    "max_messages_per_second": 20,
    "fleet_name": None,
    "fleet_secret": (),
    "max_metric_labels": 50,
}

OTHERS: dict[str, tuple[str, Any]] = {
    "version": ("v2", "v2"),
    "update_strategy": ("auto", "auto"),
    "connection_tracking": ("false", False),
    "route_tracking": ("true", True),
    "ip_tracking": ("anonymized", "anonymized"),
    "base_path": ("/live", "/live"),
    "cookie": ("build", "build"),
    "backend": ("memory", "memory"),
    "fleet_name": ("shop/eu-1", "shop/eu-1"),
    "fleet_secret": (f"{'n' * 16}, {'o' * 16}\n", ("n" * 16, "o" * 16)),
    "viewer_timeout": ("3", 3.0),
    "reauthorize_interval": ("0.5", 0.5),
    "max_listed_connections": ("5", 5),
    "max_versions": ("6", 6),
    "max_routes": ("7", 7),
    "admin_token": ("1" * 16, "1" * 16),
    "metrics_token": ("2" * 16, "2" * 16),
    "authorize_url": ("http://127.0.0.1:8000/may", "http://127.0.0.1:8000/may"),
    "authorize_headers": ("X-Tenant, X-Peer,", ("X-Tenant", "X-Peer")),
    "allowed_origins": ("https://a.example, http://b.example:8080,", ("https://a.example", "http://b.example:8080")),
    "public_origins": ("https://a.example,http://b.example:8080", ("https://a.example", "http://b.example:8080")),
    "allowed_hosts": ("a.example,*.b.example", ("a.example", "*.b.example")),
    "trusted_proxies": ("10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
    "stats_interval": ("1", 1.0),
    "keepalive_interval": ("15.5", 15.5),
    "peer_timeout": ("None", None),
    "send_timeout": ("2", 2.0),
    "authorize_timeout": ("2", 2.0),
    "hook_timeout": ("2", 2.0),
    "body_timeout": ("2", 2.0),
    "reconnect_spread": ("0", 0.0),
    "unaccounted_grace": ("2", 2.0),
    "settle_time": ("0", 0.0),
    "state_file": ("state.json", "state.json"),
    "known_versions": ("fleet, v0", ("fleet", "v0")),
    "max_connections": ("9", 9),
    "max_connections_per_address": ("10", 10),
    "max_opens_per_second": ("11", 11),
    "max_queued_messages": ("1", 1),
    "max_messages_per_second": ("1", 1),
    "max_metric_labels": ("7", 7),
}
"""What stands in the environment, and what it means."""


def load(environ: dict[str, str] | None = None, /, **settings: Any) -> Config:
    return Config.load({"version": "v1", **settings}, environ or {})


def complaint(environ: dict[str, str] | None = None, /, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ, **settings)
    return str(caught.value)


def test_every_default_is_the_documented_one() -> None:
    config = load()
    assert {name: getattr(config, name) for name in Config.__struct_fields__} == {"version": "v1", **DEFAULTS}


def test_every_setting_is_read_from_the_environment() -> None:
    assert set(OTHERS) == set(Config.__struct_fields__)
    config = Config.load({}, {f"HEADCOUNT_{name.upper()}": text for name, (text, _) in OTHERS.items()})
    assert {name: getattr(config, name) for name in OTHERS} == {name: value for name, (_, value) in OTHERS.items()}


def test_an_argument_wins_over_the_environment() -> None:
    environ = {f"HEADCOUNT_{name.upper()}": text for name, (text, _) in OTHERS.items()}
    given = {name: value for name, value in DEFAULTS.items() if value is not None}
    config = Config.load({"version": "v1", **given}, environ)
    assert {name: getattr(config, name) for name in given} == given


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - {"peer_timeout"}))
def test_none_counts_as_not_given(name: str) -> None:
    assert getattr(load(**{name: None}), name) == DEFAULTS[name]
    text, value = OTHERS[name]
    assert getattr(load({f"HEADCOUNT_{name.upper()}": text}, **{name: None}), name) == value


def test_none_switches_the_peer_timeout_off() -> None:
    assert load(peer_timeout=None).peer_timeout is None
    assert load({"HEADCOUNT_PEER_TIMEOUT": "5"}, peer_timeout=None).peer_timeout is None
    assert load({"HEADCOUNT_PEER_TIMEOUT": "none"}).peer_timeout is None
    assert load({"HEADCOUNT_PEER_TIMEOUT": "5"}).peer_timeout == 5.0


def test_the_process_s_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADCOUNT_VERSION", "from the process")
    assert Config.load({}).version == "from the process"


def test_a_name_that_is_no_setting_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ConfigError, match=r"Unknown setting rout_tracking; did you mean route_tracking or ip_tracking\? .* version,"
    ):
        Config.load({"version": "v1", "rout_tracking": True}, {})


def test_a_variable_that_is_no_setting_changes_nothing() -> None:
    assert load({"HEADCOUNT_ROUT_TRACKING": "true", "HEADCOUNT_": "x", "ROUTE_TRACKING": "true"}) == load()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load().version = "v2"  # type: ignore[misc]


def test_the_version_is_what_ci_and_platforms_say_in_their_order() -> None:
    environ = {name: f"from {name}" for name in VERSION_VARIABLES}
    for name in VERSION_VARIABLES:
        assert Config.load({}, environ).version == f"from {name}"
        environ[name] = ""
    assert {"GITHUB_SHA", "CI_COMMIT_SHA", "SOURCE_VERSION", "VERCEL_GIT_COMMIT_SHA"} <= set(VERSION_VARIABLES)


def test_our_own_variable_wins_over_theirs() -> None:
    assert Config.load({}, {"GITHUB_SHA": "abc", "HEADCOUNT_VERSION": "v7"}).version == "v7"
    assert Config.load({"version": "v8"}, {"GITHUB_SHA": "abc", "HEADCOUNT_VERSION": "v7"}).version == "v8"


def test_without_any_version_the_error_says_how_to_give_one() -> None:
    with pytest.raises(NoVersion, match=r"Headcount\(version=…\).*HEADCOUNT_VERSION"):
        Config.load({}, {})
    with pytest.raises(ConfigError, match="HEADCOUNT_VERSION"):
        Config.load({"version": None}, {"GITHUB_SHA": ""})


@pytest.mark.parametrize("version", ["v" * 128, "🦆" * 128, "2026.11.3", "__proto__"])
def test_any_label_is_a_version(version: str) -> None:
    assert load(version=version).version == version


@pytest.mark.parametrize("name", ["connection_tracking", "route_tracking", "ip_tracking"])
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *[(text, True) for text in ("1", "true", "TRUE", "yes", "On")],
        *[(text, False) for text in ("0", "false", "False", "no", "OFF", "")],
    ],
)
def test_a_switch_is_on_or_off(name: str, text: str, meant: bool) -> None:
    assert getattr(load({f"HEADCOUNT_{name.upper()}": text}), name) is meant


def test_addresses_can_be_anonymized_from_either_side() -> None:
    assert load(ip_tracking="anonymized").ip_tracking == "anonymized"
    assert load({"HEADCOUNT_IP_TRACKING": "anonymized"}).ip_tracking == "anonymized"
    assert load(ip_tracking=True).ip_tracking is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off", ""])
def test_the_cookie_can_be_switched_off_by_the_environment(text: str) -> None:
    assert load({"HEADCOUNT_COOKIE": text}).cookie is False


def test_the_cookie_can_be_switched_off_and_renamed() -> None:
    assert load(cookie=False).cookie is False
    assert load(cookie="my-build_id").cookie == "my-build_id"
    assert load({"HEADCOUNT_COOKIE": "build"}, cookie=False).cookie is False


def test_a_single_origin_or_proxy_need_not_be_in_a_list() -> None:
    assert load(allowed_origins="https://a.example").allowed_origins == ("https://a.example",)
    assert load(trusted_proxies="10.0.0.1").trusted_proxies == ("10.0.0.1",)
    assert load(allowed_origins=["https://a.example"]).allowed_origins == ("https://a.example",)
    assert load({"HEADCOUNT_ALLOWED_ORIGINS": ""}).allowed_origins == ()


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "https://www.example.com", "http://localhost:5173", "http://127.0.0.1:8000", "https://[::1]:8443"),
        *("http://localhost:8080", "https://xn--mller-kva.example", "http://my_container", "https://a.example:80"),
        *("capacitor://localhost", "ionic://localhost", "tauri://localhost", "http://tauri.localhost", "app://-"),
        *(
            "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
            "file://",
            "app://obsidian.md",
            "ionic://localhost:8100",
        ),
        *("moz-extension://5f3ac1a8-2b1e-4f1c-9d7e-0a6f6b4d2f11", "vscode-webview://1k2m3n4p5q"),
        "safari-web-extension://D9B0C1E2-3F4A-5B6C-7D8E-9F0A1B2C3D4E",
    ],
)
def test_an_origin_as_browsers_send_it_is_taken(origin: str) -> None:
    assert load(allowed_origins=[origin]).allowed_origins == (origin,)


@pytest.mark.parametrize(
    "origin", ["*", "capacitor://localhost", "https://www.example.com/", "https://WWW.example.com"]
)
def test_a_public_origin_is_one_of_http_or_https(origin: str) -> None:
    assert load(public_origins="https://www.example.com").public_origins == ("https://www.example.com",)
    with pytest.raises(ConfigError, match=r"public_origins has .*; give origins as browsers send them"):
        load(public_origins=[origin])


def test_the_server_may_be_trusted_instead_of_proxies() -> None:
    assert load(trusted_proxies="server").networks() == ()
    assert load({"HEADCOUNT_TRUSTED_PROXIES": "server"}).trusted_proxies == ("server",)
    with pytest.raises(ConfigError, match="trusted_proxies has server and addresses; give one or the other"):
        load(trusted_proxies=["server", "10.0.0.1"])


def test_proxies_are_networks() -> None:
    config = load(trusted_proxies=["10.1.2.3", "192.168.0.9/16", "::1"])
    assert config.networks() == tuple(map(ipaddress.ip_network, ("10.1.2.3/32", "192.168.0.0/16", "::1/128")))
    assert load().networks() == ()


def test_a_star_trusts_every_peer() -> None:
    networks = load(trusted_proxies=["10.0.0.1", "*"]).networks()
    for peer in ("203.0.113.9", "2001:db8::1"):
        assert any(ipaddress.ip_address(peer) in network for network in networks)


NAN, INF = float("nan"), float("inf")
SECONDS = (0, -1, 86_400, NAN, INF, "soon", True)
LIMIT = (0, -1, 1.5, "many", True)

WRONG_STORES = (
    *("redis://localhost:port/0", "redis://localhost:65536", "redis://localhost/shop", "redis://localhost/0/1"),
    *(
        "redis://localhost?db=one",
        "redis://localhost/0?db",
        "redis://localhost/0#1",
        "redis://:6379",
        "unix://",
        "unix:///",
    ),
    *("redis+sentinel://one:26379", "redis+sentinel:///shop", "redis+sentinel://one/shop/two"),
)
WRONG: dict[str, tuple[Any, ...]] = {
    "stats_interval": SECONDS,
    "keepalive_interval": SECONDS,
    "send_timeout": SECONDS,
    "authorize_timeout": SECONDS,
    "viewer_timeout": SECONDS,
    "hook_timeout": SECONDS,
    "body_timeout": SECONDS,
    "unaccounted_grace": SECONDS,
    "reauthorize_interval": (0, -1, 60.1, NAN, INF),
    "reconnect_spread": (-0.1, 3_600.1, NAN),
    "settle_time": (-0.1, 3_600.1, NAN),
    "state_file": ("", " ", "/tmp/", "a\0b", 5),
    "peer_timeout": (0, 0.9, -1, 3_601, NAN, INF),
    "known_versions": (["(other)"], ["unknown"], "v1\u200b", [""], [f"v{n}" for n in range(65)], 5),
    "max_connections": LIMIT,
    "max_connections_per_address": LIMIT,
    "max_opens_per_second": LIMIT,
    "max_listed_connections": LIMIT,
    "max_versions": LIMIT,
    "max_routes": LIMIT,
    "max_queued_messages": LIMIT,
    "max_messages_per_second": LIMIT,
    "max_metric_labels": LIMIT,
    "version": ("", "v" * 129, "a\nb", "\x00", "\ud800", "v1\u200b", "\u202e1v", " v1", "(other)", "unknown", 5),
    "update_strategy": ("http", "", "SSE", 1),
    "connection_tracking": ("perhaps", 2, []),
    "route_tracking": ("perhaps", 2, []),
    "ip_tracking": ("perhaps", "anonymised", 2),
    "base_path": ("", "/", "skew", "/skew/", "/a?b", "/a#b", "/a b", "//a", "/a%20b", "https://a.example/skew", 5),
    "cookie": ("", True, "a b", "a=b", "a;b", "ä", "a\n", "a.b", 5),
    "backend": ("", "Memory", "memcached://localhost", "redis", "redis://[", "http://localhost", *WRONG_STORES),
    "fleet_name": ("", "a b", "a" * 65, "{shop}"),
    "fleet_secret": (
        "",
        " , ",
        "x" * 15,
        5,
        "x" * 20 + "\0",
        ",".join("abcde" * 1) + "x" * 16,
        ["x" * 16, 7],
        "x" * 16 + ",y",
    ),
    "admin_token": ("", " ", 5, "two\nlines and more", "null\0", "fifteen letters", " \t fifteen letters\n"),
    "metrics_token": ("", " ", 5, "two\nlines and more", "null\0", "fifteen letters"),
    "authorize_headers": ("x y", "x:", "ä", "x" * 101, [""], [5], 5),
    "authorize_url": ("", "/may", "ftp://a.example", "http://", "http://[", 5),
    "allowed_origins": (
        *("", "a.example", "https://", "https://a.example/", "https://a.example/path", "https://*.example", "null"),
        *("https://A.example", "HTTPS://a.example", "https://a.example:443", "http://a.example:80", "ftp://a.example"),
        *("http://[", "https://a.example:port", "https://u:p@a.example", "https://müller.example", [5], 5),
        *("ws://a.example", "wss://a.example", "capacitor://", "capacitor:localhost", "tauri://localhost/", "data://x"),
        *(
            "Capacitor://localhost",
            "https://a.example:0",
            "https://a.example:080",
            "file:///",
            "1app://x",
            "javascript://x",
        ),
    ),
    "public_origins": (
        "",
        "*",
        "a.example",
        "https://a.example/",
        "https://a.example:443",
        "tauri://localhost",
        [5],
        5,
    ),
    "allowed_hosts": ("", "Shop.example", "shop.example:80", "https://shop.example", "shop.example/", "*shop", [5], 5),
    "trusted_proxies": ("", "proxy", "10.0.0.0/33", "256.0.0.1", "10.0.0.1:80", [5], 5),
}


STORES = (
    *(
        "redis://",
        "redis://localhost",
        "redis://localhost/",
        "redis://:p%2F%23@localhost:6379/15",
        "rediss://[::1]:6380",
    ),
    *("redis://localhost?db=3", "redis://user:pw@localhost/0?client_name=", "unix:///run/redis.sock?db=1"),
    *("unix://user:pw@/run/redis.sock", "redis+sentinel://:pw@one:26379,two,[::1]:26379/shop/2?sentinel_password=a"),
    *("rediss+sentinel://one/shop",),
)


@pytest.mark.parametrize("url", STORES)
def test_every_kind_of_redis_url_is_taken(url: str) -> None:
    assert Config.load({"version": "v1", "backend": url}, {}).backend == url


@pytest.mark.parametrize("secret", ["sec/ret", "sec#ret", "sec?ret", "12/34", "12#34", "12?34", "a@b/c"])
def test_a_password_that_is_not_quoted_is_refused_and_not_shown(secret: str) -> None:
    sentence = complaint(backend=f"redis://:{secret}@localhost:6379/0")
    assert sentence.startswith("backend is 'redis://…@localhost:6379/0'; give ")
    assert "in its password, write / ? # @ % as" in sentence


@pytest.mark.parametrize("name", ["sentinel_password", "password", "ssl_password"])
def test_a_password_among_the_options_is_not_shown(name: str) -> None:
    url = f"redis+sentinel://u:pw@one,two/shop?{name}=secret&db=0"
    assert without_password(url) == f"redis+sentinel://…@one,two/shop?{name}=…&db=0"


@pytest.mark.parametrize("url", STORES)
def test_options_that_redis_takes_are_taken(url: str) -> None:
    Headcount(version="v1", backend=url)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("socket_timeot=3", "got an unexpected keyword argument 'socket_timeot'"),
        ("socket_timeout=soon", "Invalid value for 'socket_timeout' in connection URL."),
    ],
)
@pytest.mark.parametrize("url", ["redis://:pw@one/0", "redis+sentinel://:pw@one,two/shop/0"])
def test_an_option_that_redis_does_not_take_is_told_at_start(url: str, option: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Headcount(version="v1", backend=f"{url}?{option}")
    shown = without_password(url)
    assert str(caught.value) == (
        f"The backend {shown}?{option} has an option that redis-py does not take ({said}); correct it, or leave it out."
    )


def test_every_setting_can_be_wrong() -> None:
    assert set(WRONG) == set(Config.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=lambda value: ascii(value)[:30],
)
def test_a_wrong_value_gets_one_sentence_that_names_the_setting(name: str, value: Any) -> None:
    sentence = complaint(**{name: value})
    assert name in sentence
    assert sentence.endswith(".")
    assert not sentence.endswith("..")
    assert "\n" not in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize("name", sorted(set(WRONG) - {"admin_token", "metrics_token", "fleet_secret"}))
def test_a_wrong_text_in_the_environment_gets_such_a_sentence_too(name: str) -> None:
    variable = f"HEADCOUNT_{name.upper()}"
    with pytest.raises(WrongSetting) as caught:
        Config.load({}, {"HEADCOUNT_VERSION": "v1", variable: "\x00"})
    assert str(caught.value).startswith(f"{variable} ")
    assert r"'\x00'; give " in str(caught.value)
    assert str(caught.value).endswith(".")
    assert (caught.value.setting, caught.value.variable) == (name, variable)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reauthorize_interval": 61}, "reauthorize_interval is 61; give more than 0 and at most 60 seconds"),
        ({"stats_interval": 0}, "stats_interval is 0; give seconds, more than 0 and less than 86400."),
        ({"max_routes": 0}, "max_routes is 0; give a whole number, at least 1."),
        ({"max_connections": "many"}, "max_connections is 'many'; give a whole number, at least 1."),
        ({"cookie": True}, "cookie is True; give a name of letters, digits, - and _ only, or False for none."),
        ({"peer_timeout": 0}, "peer_timeout is 0; give 1 to 3600 seconds, or None."),
        ({"update_strategy": "SSE"}, "update_strategy is 'SSE'; give sse, ws or auto."),
        ({"ip_tracking": "yes"}, "ip_tracking is 'yes'; give True, False or anonymized."),
        ({"allowed_origins": ["*", "a.example"]}, "allowed_origins has 'a.example'; give origins as browsers send"),
        ({"trusted_proxies": "10.0.0.0/33"}, "trusted_proxies has '10.0.0.0/33'; give addresses or networks"),
        ({"version": ""}, "version is empty; give the build id of this server's code"),
    ],
    ids=str,
)
def test_the_sentence_says_what_came_and_what_to_write(settings: dict[str, Any], sentence: str) -> None:
    assert complaint(**settings).startswith(sentence)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"HEADCOUNT_MAX_CONNECTIONS": "many"},
            "HEADCOUNT_MAX_CONNECTIONS is 'many'; give a whole number, at least 1.",
        ),
        ({"HEADCOUNT_STATS_INTERVAL": "250ms"}, "HEADCOUNT_STATS_INTERVAL is '250ms'; give seconds, more than 0"),
        ({"HEADCOUNT_ROUTE_TRACKING": "ja"}, "HEADCOUNT_ROUTE_TRACKING is 'ja'; give True or False."),
        ({"HEADCOUNT_ADMIN_TOKEN": "\n"}, "HEADCOUNT_ADMIN_TOKEN is empty; leave it out, or give a long random text"),
        ({"HEADCOUNT_VERSION": ""}, "HEADCOUNT_VERSION is empty; give the build id"),
        ({"GITHUB_SHA": "a" * 200}, f"GITHUB_SHA is '{'a' * 75} …; give the build id"),
    ],
    ids=str,
)
def test_the_sentence_names_the_variable_that_the_value_came_from(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load({}, {"GIT_SHA": "v1", **environ} if "GITHUB_SHA" not in environ else environ)
    assert str(caught.value).startswith(sentence)


def test_an_argument_that_is_wrong_is_not_blamed_on_the_variable_it_wins_over() -> None:
    assert complaint({"HEADCOUNT_MAX_ROUTES": "7"}, max_routes=0).startswith("max_routes is 0")


def test_a_token_may_end_in_the_newline_of_the_file_it_was_read_from() -> None:
    assert load({"HEADCOUNT_ADMIN_TOKEN": "a token of a file\n"}).admin_token == "a token of a file"
    assert load(admin_token=" a token of a file\n").admin_token == "a token of a file"


@pytest.mark.parametrize("name", ["admin_token", "metrics_token"])
def test_a_secret_has_at_least_sixteen_characters(name: str) -> None:
    assert complaint(**{name: "fifteen letters"}) == (
        f"{name} has 15 characters, and at least 16 are needed; give a long random text, such as the output of: "
        "openssl rand -hex 24."
    )
    assert complaint({f"HEADCOUNT_{name.upper()}": "short"}).startswith(f"HEADCOUNT_{name.upper()} has 5 characters")
    assert getattr(load(**{name: "sixteen letters!"}), name) == "sixteen letters!"


def test_a_secret_is_not_repeated_in_a_sentence() -> None:
    assert "hunter2" not in complaint(admin_token=["hunter2"])
    for value in ("hunter2", ["hunter2"], {"hunter2": 1}, ["hunter2" * 3, 5], ["hunter2"] * 9, ["hunter2" * 3] * 9):
        assert "hunter2" not in complaint(fleet_secret=value)


def test_an_empty_fleet_secret_is_refused_and_does_not_leave_the_fleet_open() -> None:
    with pytest.raises(WrongSetting, match="HEADCOUNT_FLEET_SECRET is empty; leave it out, or give a random text"):
        load({"HEADCOUNT_FLEET_SECRET": " "})
    assert load(fleet_secret="a" * 16).fleet_secret == ("a" * 16,)
    assert len(load(fleet_secret=[c * 16 for c in "abcd"]).fleet_secret) == 4
    assert "hunter2" not in complaint(backend="redsi://:hunter2@redis.internal:6379/0")
    assert "hunter2" not in complaint(authorize_url="ftp://us:hunter2@www.example.com/may")


@pytest.mark.parametrize(
    "settings",
    [
        {"reauthorize_interval": 60},
        {"reconnect_spread": 0},
        {"reconnect_spread": 3600},
        {"peer_timeout": 1},
        {"peer_timeout": 3600},
        {"max_connections": 1},
        {"stats_interval": 0.001},
        {"keepalive_interval": 86_399},
    ],
    ids=str,
)
def test_the_ends_of_a_range_are_in_it(settings: dict[str, Any]) -> None:
    config = load(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


WATCHER = """
import os, sys, threading

variables, events = [], []

class Watched(dict):
    def __getitem__(self, name):
        variables.append(name)
        return super().__getitem__(name)
    def get(self, name, default=None):
        variables.append(name)
        return super().get(name, default)
    def __contains__(self, name):
        variables.append(name)
        return super().__contains__(name)
    def __iter__(self):
        variables.append("HEADCOUNT_ all of them")
        return super().__iter__()
    def items(self):
        return [(name, self[name]) for name in self]
    def copy(self):
        return dict(self.items())

sys.addaudithook(lambda event, _: events.append(event))
{before}
os.environ = Watched(os.environ)
events.clear()
import headcount, headcount.config, headcount.asgi.app, headcount.node
{after}
ours = [name for name in variables if name.startswith("HEADCOUNT_") or name in headcount.config.VERSION_VARIABLES]
opened = [event for event in events if event.partition(".")[0] in ("socket", "subprocess") or event == "os.fork"]
optional = {"uvicorn", "httpx2", "rich", "fastapi", "django", "websockets", "redis", "itsdangerous"} & set(sys.modules)
print(ours, [event for event in opened if event != "socket.gethostname"], threading.active_count(), sorted(optional))
"""


def watch_import(after: str = "") -> str:
    # What we stand on is imported before: only what Headcount itself does is looked at.
    before = "import anyio, asyncio, msgspec, starlette.applications, starlette.requests"
    source = WATCHER.replace("{before}", before).replace("{after}", after)
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60)
    return run.stdout.strip()


def test_importing_reads_no_environment_opens_nothing_and_starts_nothing() -> None:
    assert watch_import() == "[] [] 1 []"


def test_making_one_is_when_the_environment_is_read() -> None:
    """So the test above can fail."""
    seen = watch_import("variables.clear(); headcount.Headcount(version='v1')")
    assert "HEADCOUNT_ROUTE_TRACKING" in seen
    assert seen.endswith("[] 1 []")
