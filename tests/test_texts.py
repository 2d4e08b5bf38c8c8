"""Every text that users see stands in one file, and none uses a phrase that a reader must read twice."""

import ast
import re

import pytest

from texts import browser, collect
from texts.phrases import phrases_in


@pytest.fixture(scope="module")
def collected() -> str:
    return collect.collect()


def test_the_file_of_texts_is_up_to_date(collected: str) -> None:
    checked_in = collect.FILE.read_text("utf-8")
    assert checked_in == collected, "tests/texts/texts.md is out of date; run `make texts` and read the diff"


@pytest.mark.parametrize("kind", collect.KINDS)
def test_every_kind_of_text_is_found(collected: str, kind: str) -> None:
    section = collected.partition(f"## {kind}\n")[2].partition("\n## ")[0]
    assert "\n- " in section


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("headcount config", "Exit codes: 0 the settings are valid"),
        ("headcount doctor", "Exit codes: | 0 no fault found; there may be warnings | 1 at least one fault"),
        ("headcount top", "| v r n c versions, routes, nodes or connections on the whole screen; the same key"),
        ("headcount nodes forget", "`NODE`"),
        ("headcount nodes forget", "Declare NODE gone for good"),
    ],
)
def test_all_help_of_a_command_is_listed(collected: str, command: str, text: str) -> None:
    assert text in collected.partition(f"### {command}\n")[2].partition("\n###")[0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise UsageError(f"--of {of} needs a number.")', (collect.TERMINAL, "--of {of} needs a number.")),
        ('raise Malformed(f"The limit is {text!r}.")', (collect.ERRORS, "Malformed: The limit is {text}.")),
        ('logger.warning("Node %s is gone.", node)', (collect.LOGS, "Node %s is gone.")),
        ('logger.info("ready: %s", address)', (collect.LOGS, "ready: %s")),
        ('self._logger.info("Ready")', (collect.LOGS, "Ready")),
        ('raise Problem(404, "No such " "endpoint.")', (collect.PROBLEMS, "No such endpoint.")),
        ("say = f\"{many} nodes {'are' if several else 'is'} gone\"", (collect.OTHER, "{many} nodes {are / is} gone")),
        ('report.add("reach", "ok", "The server answers.")', (collect.FINDINGS, "The server answers.")),
    ],
)
def test_a_text_is_listed_under_its_kind(source: str, expected: tuple[str, str]) -> None:
    assert collect.Reader().read(ast.parse(source)) == [expected]


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring of a module."""',
        'name: "a quoted annotation"',
        'kind = "stats-delta"',
        'logger.info("%s%s", line, suffix)',
    ],
)
def test_what_nobody_sees_is_not_listed(source: str) -> None:
    assert collect.Reader().read(ast.parse(source)) == []


_LOGGER_CALL = re.compile(r".*log(?:ger)?\.(?:debug|info|warning|error|exception|critical)")


def formats_of_log_lines() -> list[tuple[str, str]]:
    """Return `(file, format)` of every call of a logger, without the rules that the collector has for other texts."""
    found = []
    for path in sorted((collect.ROOT / "src/headcount").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=func, args=[ast.Constant(value=str(text)), *_]):
                    if _LOGGER_CALL.fullmatch(ast.unparse(func)) and re.search("[A-Za-z]{2}", text):
                        found.append((path.relative_to(collect.ROOT).as_posix(), " ".join(text.split())))
    return found


LOG_LINES = formats_of_log_lines()


def test_every_log_line_is_listed(collected: str) -> None:
    section = collected.partition(f"## {collect.LOGS}\n")[2].partition("\n## ")[0]
    assert len(LOG_LINES) > 30
    for file, line in LOG_LINES:
        assert f"- {line}\n" in section.partition(f"### {file}\n")[2].partition("\n### ")[0] + "\n", (file, line)


@pytest.mark.parametrize(("file", "line"), LOG_LINES)
def test_the_part_that_a_log_line_names_begins_with_a_capital(file: str, line: str) -> None:
    assert not re.match(r"[a-z]+: ", line), f"{file}: write {line.capitalize()}"


PAGES = ["README.md", "CHANGELOG.md", "SECURITY.md", "protocol/README.md", "docs/alerts.yml"]
PAGES += sorted(str(page.relative_to(collect.ROOT)) for page in (collect.ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_plain_english(page: str) -> None:
    found = [problem for line in (collect.ROOT / page).read_text("utf-8").splitlines() for problem in phrases_in(line)]
    assert not found, "\n".join([page, *found])


@pytest.mark.parametrize("folder", ["src", "tests", "bench", "examples"])
def test_no_comment_is_a_banner(folder: str) -> None:
    sources = [path for path in (collect.ROOT / folder).rglob("*.py") if "node_modules" not in path.parts]
    banner = re.compile(r"^\s*#+\s*[-=*~#]{3,}", re.MULTILINE)
    assert not [str(path) for path in sources if banner.search(path.read_text("utf-8"))]


def test_what_users_see_is_in_plain_english() -> None:
    found = [f"{file}: {problem}" for file, text in collect.lines() for problem in phrases_in(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "The connection to Redis failed in a way that nobody thought of.",
        "Streams that ended, viewers' included, by why.",
        "Your right does not include the list of connections.",
        "Whoever looks is not counted, unless he wants to see himself.",
        "30 is no duration; write it as 30s.",
        "Its connections are taken for gone.",
        "The client goes on trying with the present version.",
    ],
)
def test_a_phrase_that_must_be_read_twice_is_found(text: str) -> None:
    assert phrases_in(text)


def test_a_template_is_read_as_people_see_it() -> None:
    template = (
        '<script>const a = 1 // not shown</script><template><p title="Who">All <b>{{ n }}</b> nodes</p></template>'
    )
    assert list(browser.texts_of_vue(template)) == ["Who", "All {{ n }} nodes"]
