"""
Options of the commands that ask a server: its URL, credentials and network options; and durations.

Tests: tests/cli/test_asking.py.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

from ..errors import ConfigError, NotAuthorized
from ..live.active_connections import NOT_AUTHORIZED, REFUSED_CREDENTIAL
from .output import complain

if TYPE_CHECKING:
    from ..client import AccessOptions, UpdateStrategy

F = TypeVar("F", bound=Callable[..., Any])

_IF_NONE: Final = "A server without HEADCOUNT_ADMIN_TOKEN accepts none; give the --cookies of a signed-in user there."

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


class _UrlArgument(click.Argument):
    """The URL. Usage lines show it in brackets, because the environment may hold it; errors do not."""

    def make_metavar(self, ctx: click.Context) -> str:  # noqa: ARG002
        return "[URL]"

    def get_error_hint(self, ctx: click.Context | None) -> str:  # noqa: ARG002
        return "'URL'"


class AskingCommand(click.Command):
    """
    A command that asks a server. An option that is given twice with different values is wrong usage: which one counts
    would be a guess, and a gate that waits for the other version lets a deploy pass.
    """

    def make_parser(self, ctx: click.Context) -> Any:
        """Make a parser that refuses other values for an option that has one already."""
        parser: Any = super().make_parser(ctx)
        single = [
            option
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and not (option.multiple or option.is_flag or option.count)
        ]
        for option in single:
            parser.add_option(option, option.opts, dest=option.name, action="append")
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            values, rest, order = parse(args)
            for option in single:
                given = values.get(option.name, ())
                if len(set(given)) > 1:
                    name = max(option.opts, key=len)
                    raise click.UsageError(f"{name} is given more than once, with different values; give it once.", ctx)
                if given:
                    values[option.name] = given[0]
            return values, rest, order

        parser.parse_args = parse_args
        return parser


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

    def warn(self) -> None:
        """Warn of credentials that everybody on the way can read."""
        from ..client.address import is_local

        parts = urlsplit(self.base)
        own = {name.lower() for name in self.access.get("headers") or {}}
        has_credentials = self.access.get("token") or self.access.get("cookies") or own & {"authorization", "cookie"}
        if parts.scheme == "http" and has_credentials and not is_local(parts.hostname):
            complain(f"The credentials are sent unencrypted to {parts.netloc}; use https:// if the server has it.")

    def denied(self, error: NotAuthorized) -> str:
        """Return what to do about a refusal: the server's sentence, with options where the server names headers."""
        sentence = str(error)
        if "Authorization: Bearer" not in sentence and sentence not in (NOT_AUTHORIZED, REFUSED_CREDENTIAL):
            return sentence
        # The server does not say whether it has a token.
        if self.access.get("token"):
            return (
                "You are not authorised: the server does not accept this token. Check --token, HEADCOUNT_TOKEN and "
                f"HEADCOUNT_ADMIN_TOKEN. {_IF_NONE}"
            )
        return f"You are not authorised; give the server's admin token with --token or HEADCOUNT_TOKEN. {_IF_NONE}"

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


def target_options(*, stream: bool, token: bool = True, url_option: bool = False) -> Callable[[F], F]:
    """
    Add URL and options to a command, which gets them as `target`.

    Args:
        stream: The command holds a stream.
        token: It has credentials.
        url_option: The URL is an option, because the command is about something else.
    """
    url = click.argument("url", envvar="HEADCOUNT_URL", cls=_UrlArgument)
    if url_option:
        url = click.option(
            "--url", required=True, envvar="HEADCOUNT_URL", metavar="URL", help="URL of the application."
        )
    options = [
        url,
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
            from ..client.address import split_user

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
            # From here on no sentence, document or log can show the password.
            url, user = split_user(values.pop("url"))
            if user:
                access["token"] = None
                basic = b64encode(user.encode()).decode()
                access["headers"] = {**(access.get("headers") or {}), "authorization": f"Basic {basic}"}
            target = Target(without_dashboard(url, base_path), base_path, strategy, access)
            target.check()
            target.warn()
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


def timeout_option(help: str) -> Callable[[F], F]:  # noqa: A002  click's word
    """Return the option of commands that wait for a deploy: for how many seconds; 0 is no limit."""
    return _seconds_option("--timeout", "30m", "HEADCOUNT_TIMEOUT", help)


def lost_after_option(help: str) -> Callable[[F], F]:  # noqa: A002  click's word
    """Return the option that says after how many seconds without contact such a command gives up; 0 is never."""
    return _seconds_option("--lost-after", "60s", "HEADCOUNT_LOST_AFTER", help)


def _seconds_option(name: str, default: str, variable: str, text: str) -> Callable[[F], F]:
    return click.option(name, type=DURATION, default=default, show_default=True, envvar=variable, help=text)


def _headers(pairs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        found[name.strip()] = value.strip()
    return found
