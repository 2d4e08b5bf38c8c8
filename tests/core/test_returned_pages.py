"""Pages that name a stream of another node: candidates, bounded, each counted once."""

import pytest

from headcount.core import returned_pages
from headcount.core.returned_pages import KEPT, ReturnedPage, ReturnedPages


def anything(page: ReturnedPage) -> tuple[str, str] | None:
    return page.handle, page.version


def test_a_page_counts_once_for_the_node_that_it_comes_from() -> None:
    found = ReturnedPages()
    for _ in range(3):
        found.add("aa", "aa1", "v1", 0.0)
    found.add("aa", "aa2", "v2", 0.0)
    found.add("bb", "bb1", "v1", 0.0)
    assert (len(found), sorted(found.nodes)) == (3, ["aa", "bb"])
    assert found.pop_pages("aa", anything) == {"aa1": "v1", "aa2": "v2"}
    assert (len(found), found.pop_pages("aa", anything)) == (1, {})


def test_a_handle_that_proves_nothing_is_forgotten() -> None:
    found = ReturnedPages()
    found.add("aa", "aa1", "v1", 0.0)
    assert found.pop_pages("aa", lambda _: None) == {}
    assert len(found) == 0


def test_the_version_is_the_one_that_was_proven() -> None:
    found = ReturnedPages()
    found.add("aa", "aa1", "v2", 0.0)
    assert found.pop_pages("aa", lambda page: (page.handle, "v1")) == {"aa1": "v1"}


def test_those_that_may_prove_something_soon_are_kept() -> None:
    found = ReturnedPages()
    for handle in ("aa1", "aa2"):
        found.add("aa", handle, "v1", 0.0)
    assert found.pop_pages("aa", lambda page: (page.handle, "v1") if page.handle == "aa1" else None, keep=True) == {
        "aa1": "v1"
    }
    assert len(found) == 1
    assert found.pop_pages("aa", anything) == {"aa2": "v1"}
    assert (len(found), found.nodes) == (0, [])


def test_candidates_of_nodes_that_live_are_forgotten_after_a_while() -> None:
    found = ReturnedPages()
    found.add("aa", "aa1", "v1", 0.0)
    found.add("aa", "aa2", "v1", 5.0)
    found.expire(KEPT)
    assert len(found) == 1
    found.expire(KEPT + 5)
    assert (len(found), found.nodes) == (0, [])


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returned_pages, "MAX_RETURNS", 3)
    found = ReturnedPages()
    for number in range(10):
        found.add(f"node{number % 2}", f"handle{number}", "v1", float(number))
    assert len(found) == 3
    assert sum(len(found.pop_pages(node, anything)) for node in found.nodes) == 3


def test_pages_that_came_before_the_last_word_of_their_node_take_nothing_off() -> None:
    returns = ReturnedPages()
    for moment, handle in ((1.0, "early"), (5.0, "late")):
        returns.add("aaaaaaaaaaaa", handle, "v1", moment)
    assert returns.pop_pages("aaaaaaaaaaaa", anything, since=4.0) == {"late": "v1"}
    assert len(returns) == 0


def test_pages_of_a_node_that_does_not_exist_are_forgotten() -> None:
    returns = ReturnedPages()
    returns.add("aaaaaaaaaaaa", "one", "v1", 1.0)
    returns.add("bbbbbbbbbbbb", "two", "v1", 1.0)
    returns.discard("bbbbbbbbbbbb")
    returns.discard("cccccccccccc")
    assert (len(returns), returns.nodes) == (1, ["aaaaaaaaaaaa"])
