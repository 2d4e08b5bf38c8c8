"""Proxies are named by their headers, and told what the docs tell."""

import ast
import re
from pathlib import Path

import pytest

from headcount.tools.doctor.products import MENDS, mend, products
from kit.docs import section_of

PAGE = (Path(__file__).parents[2] / "docs/doctor.md").read_text("utf-8")
PRODUCTS = ("nginx", "Traefik", "Caddy", "HAProxy", "Envoy", "AWS ALB", "Google Cloud", "Cloudflare", "IIS")
NOT_OF_PROXIES = {
    "Other sites",  # a setting of Headcount
    "Cookies",  # the ASGI server
    "Statistics",  # not known
    "Refused",
    "Connections",  # uvicorn
    "Service workers",
    "Clock",
    "Processes",
}
"""Sections whose cause is elsewhere."""

SOURCE = Path(__file__).parents[2] / "src/headcount/tools/doctor"


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ({}, []),
        ({"server": "uvicorn"}, []),
        ({"server": "nginx/1.22.1"}, ["nginx"]),
        ({"server": "openresty"}, ["nginx"]),
        ({"server": "cloudflare", "cf-ray": "8c1-FRA"}, ["Cloudflare"]),
        ({"via": "1.1 Caddy"}, ["Caddy"]),
        ({"via": "1.1 google"}, ["Google Cloud"]),
        ({"server": "envoy", "x-envoy-upstream-service-time": "3"}, ["Envoy"]),
        ({"server": "awselb/2.0"}, ["AWS ALB"]),
        ({"x-powered-by": "ARR/3.0", "server": "Microsoft-IIS/10.0"}, ["IIS"]),
        (
            {"server": "nginx", "via": "1.1 varnish, 1.1 google", "x-amz-cf-id": "x"},
            ["CloudFront", "nginx", "Google Cloud", "Varnish"],
        ),
        ({"server": "x" * 100_000}, []),
    ],
)
def test_proxies_are_named_by_their_headers(headers: dict[str, str], names: list[str]) -> None:
    assert products(headers) == names


def test_a_recognised_proxy_gets_its_line() -> None:
    assert mend("host", ["nginx", "Fly.io"], "Pass it on.") == "Pass it on. nginx: proxy_set_header Host $http_host;"
    assert mend("host", [], "Pass it on.") == "Pass it on. nginx: proxy_set_header Host $http_host;"
    assert mend("host", ["Fly.io"], "Pass it on.") == "Pass it on."
    assert mend("clock", ["nginx"], "Pass it on.") == "Pass it on."


@pytest.mark.parametrize("section", MENDS)
def test_each_line_stands_in_its_section_of_the_page(section: str) -> None:
    found = re.search(
        rf"^## {section.replace('-', ' ')}$(.*?)(?=^## |\Z)", PAGE, re.IGNORECASE | re.MULTILINE | re.DOTALL
    )
    assert found
    for product, line in MENDS[section].items():
        row = next(row for row in found[1].splitlines() if row.startswith("|") and product in row.split("|")[1])
        assert line in re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row).replace("`", ""), (section, product)


def test_each_finding_leads_to_a_section_of_the_page() -> None:
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    named = {
        name for path in SOURCE.glob("*.py") for name in re.findall(r'section="([a-z-]+)"', path.read_text("utf-8"))
    }
    assert len(named) > 10
    assert named <= sections
    assert set(MENDS) <= sections


def test_each_fault_and_warning_has_a_section() -> None:
    without = []
    found = 0
    for path in SOURCE.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add":
                levels = {node.value for node in ast.walk(call.args[1]) if isinstance(node, ast.Constant)}
                found += bool(levels & {"fault", "warning"})
                if levels & {"fault", "warning"} and "section" not in {keyword.arg for keyword in call.keywords}:
                    without.append(f"{path.name}:{call.lineno}")
    assert found > 25
    assert without == []


@pytest.mark.parametrize("section", sorted(set(re.findall(r"^## (.+)$", PAGE, re.MULTILINE)) - NOT_OF_PROXIES))
def test_each_cause_that_a_proxy_can_be_has_a_row_for_each_product(section: str) -> None:
    text = section_of("docs/doctor.md", f"{section}\n")
    named = ", ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    also = re.findall(r"When (.+) notice it was not tried", text)
    assert [product for product in PRODUCTS if product not in f"{named}, {also}"] == []
