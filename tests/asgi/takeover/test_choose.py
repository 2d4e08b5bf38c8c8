"""Which protocol class uvicorn gets, and what is said when it is not ours."""

import builtins
import logging
import sys
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from headcount import Headcount
from headcount.asgi.app import endpoints_of
from headcount.asgi.takeover.choose import TESTED, protocol_class


@pytest.fixture
def headcount() -> Headcount:
    return Headcount(version="1")


def test_the_installed_version_is_one_that_is_tested(headcount: Headcount, caplog: pytest.LogCaptureFixture) -> None:
    assert int(uvicorn.__version__.split(".")[1]) in TESTED
    assert headcount.protocol is headcount.protocol
    assert headcount.protocol.__module__.startswith("headcount.")
    assert not caplog.records


@pytest.mark.parametrize("version", ["0.33.0", f"0.{TESTED[-1] + 1}.0", "1.0.0", "0.dev", "0", "", "0.-40.1", "0.²5.0"])
def test_with_an_unknown_version_streams_stay_on_asgi_and_the_log_says_so(
    version: str, headcount: Headcount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn, "__version__", version)
    assert headcount.protocol is AutoHTTPProtocol
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("headcount", logging.WARNING)
    assert f"tested with uvicorn 0.{TESTED[0]} to 0.{TESTED[-1]}, not with {version}." in record.getMessage()
    assert headcount.protocol is AutoHTTPProtocol
    assert len(caplog.records) == 1, "once is enough"


@pytest.mark.parametrize("name", ["httptools", "websockets"])
def test_without_a_package_that_it_needs_streams_stay_on_asgi_and_the_log_says_what_to_install(
    name: str, headcount: Headcount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in [module for module in sys.modules if module == name or module.startswith(name + ".")]:
        monkeypatch.delitem(sys.modules, module)
    genuine = builtins.__import__

    def absent(module: str, *args: Any, **kwargs: Any) -> Any:
        if module == name or module.startswith(name + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return genuine(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert protocol_class(endpoints_of(headcount)) is AutoHTTPProtocol
    assert f"needs {name}; run: pip install 'headcount[serve]'." in caplog.text
