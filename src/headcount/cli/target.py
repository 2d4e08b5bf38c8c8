"""
Options of the commands that ask a server: its URL, credentials and network options; and durations.

Tests: tests/cli/test_asking.py.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from ..errors import ConfigError, NotAuthorized
from ..live.active_connections import NOT_AUTHORIZED

if TYPE_CHECKING:
    from ..client import AccessOptions, UpdateStrategy

F = TypeVar("F", bound=Callable[..., Any])

_UNITS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Duration(click.ParamType[float]):
    """Seconds, or a number with ms, s, m, h or d, several of them after one another: `90`, `30s`, `1h30m`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip().lower()
        pieces = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd]?)", text)
        if not text or "".join(number + unit for number, unit in pieces) != text:
            self.fail(f"{value!r} is not a duration; write it as 30s, 10m or 1h30m.", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in pieces)


DURATION: Final = Duration()


class _Header(click.ParamType[str]):
    """`Name: value`. In the environment, each header stands on a line of its own, because headers contain spaces."""

    name = "header"
    envvar_list_splitter = "\n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it stripped."""
        text = str(value).strip()
        if not text.partition(":")[0].strip() or ":" not in text:
            self.fail(f"{text!r} is not a header; write it as 'X-Name: value'.", param, ctx)
        return text


class _Cookies(click.ParamType[str]):
    """The value of a Cookie header."""

    name = "cookies"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return them as they are."""
        text = str(value)
        if not all("=" in pair for pair in text.rstrip("; ").split(";")):
            self.fail(f"{text!r} is not a Cookie header; write it as 'name=value; name=value'.", param, ctx)
        return text


class _BasePath(click.ParamType[str]):
    """A base path, in the form of the setting of that name."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is."""
        text = str(value)
        if not text.startswith("/") or text.endswith("/") or "?" in text:
            self.fail(
                f"{text!r} is not a base path; write it with a leading and no trailing slash, such as /__skew.",
                param,
                ctx,
            )
        return text


class Target(NamedTuple):
    """A server and how to reach it."""

    url: str
    base_path: str | None
    update_strategy: "UpdateStrategy"
    access: "AccessOptions"

    def check(self) -> None:
        """
        Check the options before anything is sent.

        Raises:
            click.UsageError: The URL, token, headers, proxy or CA file is invalid.
        """
        # Before the `try`: a missing package is not wrong usage.
        from ..client.access import Access
        from ..client.address import base_url

        try:
            base, access = base_url(self.url, self.base_path), Access(**self.access)
            if isinstance(self.access.get("verify"), str):
                access.tls(base)
        except ConfigError as error:
            raise click.UsageError(str(error), click.get_current_context()) from None

    def denied(self, error: NotAuthorized) -> str:
        """Return what to do about a refusal: the server's sentence, with options where the server names headers."""
        sentence = str(error)
        if "Authorization: Bearer" not in sentence and sentence != NOT_AUTHORIZED:
            return sentence
        if self.access.get("token"):
            return (
                "You are not authorised: the server does not accept this token; check --token, or HEADCOUNT_TOKEN and "
                "HEADCOUNT_ADMIN_TOKEN."
            )
        return "You are not authorised; give the server's admin token with --token or HEADCOUNT_TOKEN."

    @property
    def base(self) -> str:
        """URL of the base path."""
        from ..client.address import base_url

        return base_url(self.url, self.base_path)


def without_dashboard(url: str, base_path: str | None = None) -> str:
    """
    Return the URL of the base path for the URL of the dashboard's page, and any other URL as it is.

    People copy the page's URL from the address bar, as the dashboard is what they have open. The base path itself may
    end with `/dashboard`, so the page is known by what is before that word: the base path, or any path where the URL
    ends with a slash, as the page's does.
    """
    page = re.split("[?#]", url.strip(), maxsplit=1)[0].removesuffix("index.html")
    base, found, slash = page.rpartition("/dashboard")
    if not found or slash not in ("", "/"):
        return url
    path = re.sub(r"^(\w+://)?[^/]*", "", base)
    return base if base.endswith(base_path or "/__skew") or (slash and path.strip("/") and not base_path) else url


def target_options(*, stream: bool, token: bool = True) -> Callable[[F], F]:
    """Add URL and options to a command, which gets them as `target`. `stream`: the command holds a stream."""
    options = [
        click.argument("url", envvar="HEADCOUNT_URL"),
        click.option(
            "--base-path",
            envvar="HEADCOUNT_BASE_PATH",
            type=_BasePath(),
            metavar="PATH",
            help="Base path of Headcount on the server [default: the path of URL, else /__skew].",
        ),
        click.option(
            "--header",
            "headers",
            multiple=True,
            type=_Header(),
            metavar="NAME:VALUE",
            envvar="HEADCOUNT_HEADER",
            help="Header sent with every request; may be repeated.",
        ),
        click.option(
            "--cookies",
            type=_Cookies(),
            envvar="HEADCOUNT_COOKIES",
            metavar="NAME=VALUE",
            help="Cookies sent with every request.",
        ),
        click.option(
            "--ca-file",
            envvar="HEADCOUNT_CA_FILE",
            type=click.Path(exists=True, dir_okay=False),
            help="File of certificate authorities to trust, in PEM format.",
        ),
        click.option(
            "--insecure", is_flag=True, envvar="HEADCOUNT_INSECURE", help="Do not verify the server's certificate."
        ),
        click.option(
            "--proxy",
            envvar="HEADCOUNT_PROXY",
            metavar="URL",
            help="HTTP or SOCKS proxy; 'none': no proxy [default: HTTPS_PROXY and NO_PROXY].",
        ),
    ]
    if token:
        options.insert(
            1,
            click.option(
                "--token",
                envvar=["HEADCOUNT_TOKEN", "HEADCOUNT_ADMIN_TOKEN"],
                metavar="TOKEN",
                help="Bearer token. Safer in HEADCOUNT_TOKEN: other users can read command lines.",
            ),
        )
    if stream:
        options.append(
            click.option(
                "--update-strategy",
                envvar="HEADCOUNT_UPDATE_STRATEGY",
                type=click.Choice(["auto", "sse", "ws"]),
                default="auto",
                show_default=True,
                help="Kind of stream; auto: WebSocket, else SSE.",
            )
        )

    def decorate(function: F) -> F:
        def with_target(*arguments: Any, **values: Any) -> Any:
            access: AccessOptions = {
                "token": values.pop("token", None) or None,
                "headers": _headers(values.pop("headers")),
                "cookies": values.pop("cookies") or None,
                "verify": not values.pop("insecure"),
                "proxy": True,
            }
            if ca_file := values.pop("ca_file"):
                access["verify"] = ca_file
            if proxy := values.pop("proxy"):
                access["proxy"] = False if proxy.lower() == "none" else proxy
            strategy: UpdateStrategy = values.pop("update_strategy") if stream else "auto"
            base_path = values.pop("base_path")
            target = Target(without_dashboard(values.pop("url"), base_path), base_path, strategy, access)
            target.check()
            try:
                return function(*arguments, target=target, **values)
            except NotAuthorized as error:
                raise NotAuthorized(target.denied(error)) from None

        with_target.__name__, with_target.__doc__ = function.__name__, function.__doc__
        wrapped: Any = with_target
        for option in reversed(options):
            wrapped = option(wrapped)
        wrapped.__click_params__ = [*getattr(function, "__click_params__", []), *wrapped.__click_params__]
        decorated: F = wrapped
        return decorated

    return decorate


json_option = click.option(
    "--json", "as_json", is_flag=True, envvar="HEADCOUNT_JSON", help="Write JSON to the standard output."
)


def _headers(pairs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        found[name.strip()] = value.strip()
    return found
