"""The settings stand in four places: the struct, the keyword arguments, the page and the tests. They are the same."""

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from headcount import ConfigError, Headcount
from headcount.asgi.app import Settings
from headcount.config import VERSION_VARIABLES, Config

PAGE = (Path(__file__).parents[1] / "docs/settings.md").read_text()
KEYWORDS = get_type_hints(Settings)
FIELDS = get_type_hints(Config)


def test_the_keyword_arguments_are_exactly_the_settings() -> None:
    assert list(KEYWORDS) == list(Config.__struct_fields__)
    assert Settings.__total__ is False


def members(hint: Any) -> set[Any]:
    """Split a hint into what a value may be; literals into their values."""
    found: set[Any] = set()
    for part in get_args(hint) if type(hint).__name__ in ("UnionType", "_UnionGenericAlias") else (hint,):
        found |= set(get_args(part)) if type(part).__name__ == "_LiteralGenericAlias" else {part}
    return found


@pytest.mark.parametrize("name", Config.__struct_fields__)
def test_a_keyword_argument_has_the_type_of_its_setting(name: str) -> None:
    expected = members(FIELDS[name])
    match name:
        case "version":
            expected |= {type(None)}  # found elsewhere then
        case "cookie":
            expected = {str, False}  # True would be no name
        case "fleet_secret":
            expected |= {str, list[str]}
        case "known_versions":
            expected |= {list[str], str}
        case "authorize_headers" | "allowed_origins" | "public_origins" | "allowed_hosts" | "trusted_proxies":
            expected |= {list[str]}
    assert members(KEYWORDS[name]) == expected


def test_the_page_lists_exactly_the_settings() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(Config.__struct_fields__)


@pytest.mark.parametrize("field", msgspec.structs.fields(Config)[1:], ids=lambda field: str(field.name))
def test_the_page_says_the_default(field: msgspec.structs.FieldInfo) -> None:
    found = re.search(rf"^\| `{field.name}` \| (.*?) \|", PAGE, re.MULTILINE)
    assert found
    default = {"on": True, "off": False, "none": None}.get(found[1], found[1].strip("`").replace(",", ""))
    if isinstance(field.default, int) and not isinstance(field.default, bool):
        assert found[1].strip("`") == f"{field.default:,}"
    if isinstance(default, str):
        assert default == (str(field.default) if isinstance(field.default, str) else f"{field.default:g}")
    else:
        assert (field.default or default) == default
        assert bool(field.default) is bool(default)


def test_the_page_lists_the_variables_that_may_hold_the_version() -> None:
    found = re.search(r"^\| `version` \|.*Asked in order: (.*?) \|$", PAGE, re.MULTILINE)
    assert found
    assert re.findall(r"`(\w+)`", found[1]) == ["HEADCOUNT_VERSION", *VERSION_VARIABLES]


def test_what_is_given_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADCOUNT_ROUTE_TRACKING", "true")
    monkeypatch.setenv("HEADCOUNT_MAX_ROUTES", "7")
    headcount = Headcount(version="v1", base_path="/live", max_routes=3)
    assert (headcount.version, headcount.base_path) == ("v1", "/live")
    assert (headcount.config.route_tracking, headcount.config.max_routes) == (True, 3)


def test_two_of_them_have_each_their_own() -> None:
    first, second = Headcount(version="v1", route_tracking=True), Headcount(version="v2", route_tracking=False)
    assert (first.version, second.version) == ("v1", "v2")
    assert (first.config.route_tracking, second.config.route_tracking) == (True, False)
    assert first.node is not second.node


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match="rout_tracking"):
        Headcount(version="v1", rout_tracking=True)  # type: ignore[call-arg]
