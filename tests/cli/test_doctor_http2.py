"""Browsers get HTTP/2 from a proxy that has the line for it in docs/doctor.md, and streams arrive by it."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.docs import blocks
from kit.ports import free_port
from kit.programs import needs
from kit.proxies import PRODUCTS, RunningProxy

from .processes import Serve
from .test_doctor_mends import pieces, row

SECTION = "Six connections"


@pytest.fixture(scope="module")
def server() -> Iterator[Serve]:
    with Serve() as serving:
        yield serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for this machine."""
    needs("openssl", "curl")
    folder = tmp_path_factory.mktemp("certificate")
    key, chain = folder / "key.pem", folder / "chain.pem"
    subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"],
            "-keyout",
            key,
            "-out",
            chain,
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_text(key.read_text() + chain.read_text())
    return both


def nginx(block: str, certificate: Path, port: int, line: str | None) -> str:
    listen = (line or "listen 443 ssl;").replace("443", f"127.0.0.1:{port}")
    tls = f"{listen} ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    return block.replace("listen 80;", f"listen 80; {tls}")


def haproxy(block: str, certificate: Path, port: int, line: str | None) -> str:
    bind = (line or "bind :443 ssl crt /etc/haproxy/site.pem alpn http/1.1").replace(":443", f"127.0.0.1:{port}")
    return block.replace("    bind :80\n", f"    bind :80\n    {bind}\n").replace(
        "/etc/haproxy/site.pem", str(certificate)
    )


def envoy(block: str, certificate: Path, port: int, line: str | None) -> str:
    begin, end = block.index("    - name: web\n"), block.index("  clusters:\n")
    listener = block[begin:end].replace("address: 0.0.0.0, port_value: 80 ", f"address: 127.0.0.1, port_value: {port} ")
    tls = f"""        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                {line or ""}
                tls_certificates:
                  - certificate_chain: {{ filename: {certificate} }}
                    private_key: {{ filename: {certificate} }}
          filters:
"""
    listener = listener.replace("name: web", "name: tls", 1).replace("        - filters:\n", tls)
    return block[:end] + listener + block[end:]


def http_version(port: int) -> str:
    """Return the HTTP version of a stream, after its first event has arrived."""
    answer = subprocess.run(
        [
            *["curl", "--silent", "--insecure", "--no-buffer", "--http2", "--max-time", "3", "--write-out"],
            "HTTP %{http_version}",
            f"https://127.0.0.1:{port}/__skew/sse?version=v1",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    ).stdout
    assert '"type":"connected"' in answer, answer
    return answer.rpartition("HTTP ")[2]


def begin(product: str, server: Serve, config: str, folder: Path, options: list[str] | None = None) -> RunningProxy:
    made = PRODUCTS[product]
    if made.missing:
        pytest.skip(made.missing)
    return RunningProxy(made, config, Path(tempfile.mkdtemp(dir=folder)), server.port, options or [])


def documented(product: str) -> str:
    return next(block.code for block in blocks("proxies.md") if PRODUCTS[product].match(block))


@pytest.mark.parametrize("with_line", [False, True], ids=["without the line", "with the line"])
@pytest.mark.parametrize("configure", [nginx, haproxy, envoy], ids=lambda configure: configure.__name__)
def test_the_line_of_the_page_turns_http2_on(
    configure: Callable[..., str], with_line: bool, server: Serve, certificate: Path, tmp_path: Path
) -> None:
    product, port = configure.__name__, free_port()
    line = pieces(row(SECTION, product))[0]
    config = configure(documented(product), certificate, port, line if with_line else None)
    with begin(product, server, config, tmp_path):
        assert http_version(port) == ("2" if with_line else "1.1")


@pytest.mark.parametrize("product", ["traefik", "caddy"])
def test_products_that_need_no_line_serve_http2(product: str, server: Serve, certificate: Path, tmp_path: Path) -> None:
    assert "by default" in row(SECTION, product)
    port, config, options = free_port(), documented(product), []
    if product == "caddy":
        tls = config.replace("www.example.com {", f"https://127.0.0.1:{port} {{\n    tls {certificate} {certificate}")
        config = f"{{\n    skip_install_trust\n}}\n{config}\n{tls}"
    else:
        options = [f"--entryPoints.tls.address=127.0.0.1:{port}", "--entryPoints.tls.http.tls=true"]
    with begin(product, server, config, tmp_path, options):
        assert http_version(port) == "2"


@pytest.mark.parametrize("product", ["nginx", "haproxy", "envoy"])
def test_the_lines_that_send_the_address_stand_in_the_whole_configuration(product: str) -> None:
    assert pieces(row("Addresses", product))[0] in documented(product)
