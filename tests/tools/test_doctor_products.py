"""Proxies are named by their headers, and told what the docs tell."""

import re
from pathlib import Path

import pytest

from headcount.tools.doctor.products import MENDS, mend, products

PAGE = (Path(__file__).parents[2] / "docs/doctor.md").read_text("utf-8")
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
