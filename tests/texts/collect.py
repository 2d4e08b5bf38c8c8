"""
Collects every text that users see from the source: `collect()` returns what tests/texts/texts.md holds.

Python files are parsed, not run; only the commands run, to give their help. TypeScript and Vue are read by the small
scanners in `browser.py`. A text that no rule recognises is listed under "Other texts" when it reads like a sentence, so
that a new way to show one is not lost.

`make texts` writes the file.
"""

import ast
import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

from headcount.cli import cli

from .browser import texts_of_html, texts_of_typescript, texts_of_vue
from .sentences import reads_like_a_sentence

ROOT: Final = Path(__file__).parents[2]
FILE: Final = Path(__file__).with_name("texts.md")

PROBLEMS: Final = "HTTP answers (problem+json details)"
ENDS: Final = "Reasons with which a stream is closed"
ERRORS: Final = "Exceptions"
LOGS: Final = "Log messages"
FINDINGS: Final = "Findings of `headcount doctor`"
METRICS: Final = "Help of metrics"
COMMANDS: Final = "Help of commands and options"
TERMINAL: Final = "Texts in the terminal"
OTHER: Final = "Other texts in Python"
BROWSER: Final = "Texts in the browser"
KINDS: Final = (PROBLEMS, ENDS, ERRORS, LOGS, FINDINGS, METRICS, COMMANDS, TERMINAL, OTHER, BROWSER)

PYTHON: Final = ("src/headcount", "examples/shop")
BROWSER_CODE: Final = ("web/client/src", "web/dashboard/src", "web/dashboard/index.html", "examples/shop/web")
SHARED: Final = "several commands"
_NOT_OURS: Final = {"node_modules", "dist", "static"}

_LOG_METHODS: Final = {"debug", "info", "warning", "error", "exception", "critical"}
_TERMINAL_CALLS: Final = {"echo", "secho", "fail", "complain", "paint", "UsageError", "BadParameter", "ClickException"}
_INSIDE_OF_CALLS: Final = {"Option", "option", "argument", "command", "Argument"}
"""Help of commands is read from the commands themselves."""


class Text(NamedTuple):
    """
    One text.

    Attributes:
        kind: The heading in the file.
        file: Path below the repository, or the command.
        text: How it reads, on one line.
    """

    kind: str
    file: str
    text: str


def collect() -> str:
    """Return the whole file."""
    found: dict[str, dict[str, list[str]]] = {kind: defaultdict(list) for kind in KINDS}
    for kind, file, text in (*_python(), *_commands(), *_browser()):
        lines = found[kind][file]
        if text not in lines:
            lines.append(text)
    parts = [
        "# Texts that users see",
        "",
        "Collected from the source by `make texts`; do not edit. `{…}` and `%s` stand for values.",
    ]
    for kind, files in found.items():
        parts += ["", f"## {kind}"]
        for file, lines in sorted(files.items()):
            parts += ["", f"### {file}", *(f"- {line}" for line in lines)]
    return "\n".join(parts) + "\n"


def lines() -> Iterator[tuple[str, str]]:
    """Yield each text of the checked-in file, with the file it comes from."""
    file = ""
    for line in FILE.read_text("utf-8").splitlines():
        if line.startswith("### "):
            file = line.removeprefix("### ")
        elif line.startswith("- "):
            yield file, line.removeprefix("- ")


def _files(folders: tuple[str, ...], *suffixes: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")) or [ROOT / folder]:
            name = path.relative_to(ROOT)
            if path.suffix in suffixes and not _NOT_OURS & set(name.parts):
                yield name.as_posix(), path.read_text("utf-8")


def _python() -> Iterator[Text]:
    for file, source in _files(PYTHON, ".py"):
        for kind, text in Reader().read(ast.parse(source)):
            yield Text(kind, file, _on_one_line(text))


def _browser() -> Iterator[Text]:
    readers = {".ts": texts_of_typescript, ".tsx": texts_of_typescript, ".vue": texts_of_vue, ".html": texts_of_html}
    for file, source in _files(BROWSER_CODE, *readers):
        for text in readers[Path(file).suffix](source):
            yield Text(BROWSER, file, _on_one_line(text))


def _commands() -> Iterator[Text]:
    # The settings of a command say which options ask for help; a command keeps the first answer that it gives.
    context = click.Context(cli, info_name="headcount", **cli.context_settings)
    yield from _help(cli, context)
    texts = list(_help_of_commands(cli, context))
    users = Counter(text.text for text in texts)
    yield from (text if users[text.text] == 1 else text._replace(file=SHARED) for text in texts)


def _help_of_commands(group: click.Group, context: click.Context) -> Iterator[Text]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, **command.context_settings)
        yield from _help(command, inner)
        if isinstance(command, click.Group):
            yield from _help_of_commands(command, inner)


def _help(command: click.Command, context: click.Context) -> Iterator[Text]:
    file = context.command_path
    yield from (Text(COMMANDS, file, _on_one_line(text)) for text in (command.help or "").split("\n\n") if text.strip())
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record:
            yield Text(COMMANDS, file, _on_one_line(f"`{record[0]}` {record[1]}"))
    if isinstance(command, click.Group):
        formatter = click.HelpFormatter(width=200)
        command.format_commands(context, formatter)
        rows = formatter.getvalue().splitlines()[1:]
        yield from (Text(COMMANDS, file, " ".join(row.split())) for row in rows)
    for paragraph in inspect.cleandoc(command.epilog or "").split("\n\n"):
        if paragraph:
            # Lines of a table keep apart; one that is indented further belongs to the line before.
            yield Text(COMMANDS, file, " | ".join(map(_on_one_line, re.split(r"\n {1,2}(?=\S)", paragraph))))


def _on_one_line(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


class Reader(ast.NodeVisitor):
    """Reads one file: what is said, and to whom, by the call or statement that each text stands in."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []
        self._kinds = [OTHER]
        self._prefix = ""

    def read(self, tree: ast.AST) -> list[tuple[str, str]]:
        """Return `(kind, text)` in the order of the source."""
        self.visit(tree)
        return self._found

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:  # an annotation holds no text
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Pass over annotations."""

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self._inside(ERRORS, node.exc)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name in _INSIDE_OF_CALLS or (name == "compile" and owner == "re"):
            return
        kind = self._kind_of(name, owner)
        if kind is None:
            self.generic_visit(node)
            return
        prefix, self._prefix = self._prefix, f"{name}: " if kind is ERRORS else ""
        self.visit(node.func)
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        if kind is LOGS and parts and _is_text(parts[0]):
            # Its format is a text, whatever it reads like: "server: stopped" could be a header elsewhere.
            text = _rendered(parts.pop(0))
            if re.search("[A-Za-z]{2}", text):
                self._found.append((LOGS, text))
        for part in parts:
            self._inside(kind, part)
        self._prefix = prefix

    def _kind_of(self, name: str, owner: str) -> str | None:
        if name in _LOG_METHODS and owner.rpartition(".")[2].lstrip("_") in ("logger", "log"):
            return LOGS
        if name == "Problem":
            return PROBLEMS
        if name == "End":
            return ENDS
        if name.endswith("MetricFamily") or name == "_gauge_by":
            return METRICS
        if name == "Finding" or (name == "add" and owner.endswith("report")):
            return FINDINGS
        if name in _TERMINAL_CALLS or (name == "wrapped" and not owner):
            return TERMINAL
        if self._kinds[-1] is ERRORS and name[:1].isupper():
            return ERRORS
        return None

    def _inside(self, kind: str, node: ast.AST) -> None:
        self._kinds.append(kind)
        self.visit(node)
        self._kinds.pop()

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._take(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._take(_rendered(node))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Add) and _is_text(node.left) | _is_text(node.right):
            self._take(_rendered(node))
        else:
            self.generic_visit(node)

    def _take(self, text: str) -> None:
        if reads_like_a_sentence(text):
            self._found.append((self._kinds[-1], self._prefix + text))


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _rendered(node: ast.AST) -> str:
    """Return how a text reads, with the expressions in it in braces."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_rendered, node.values))
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _rendered(node.left) + _rendered(node.right)
    if isinstance(node, ast.FormattedValue):
        node = node.value
    if isinstance(node, ast.IfExp):
        return "{" + " / ".join(_rendered(part).strip("{}") for part in (node.body, node.orelse)) + "}"
    if any(isinstance(part, ast.JoinedStr) for part in ast.walk(node)):
        return "{…}"  # versions of Python write a text inside of a text differently
    return "{" + ast.unparse(node) + "}"


if __name__ == "__main__":
    FILE.write_text(collect(), "utf-8")
