"""The versions that are known."""

from headcount.core.known_versions import MAX_LEARNT, KnownVersions


def test_what_is_fixed_and_what_was_learnt_is_known() -> None:
    known = KnownVersions(("own", "listed"))
    assert known.names == {"own", "listed"}
    assert known.learn(("v1", "own"))
    assert known.names == {"own", "listed", "v1"}
    assert not known.learn(("v1", "listed"))
    assert not known.learn(())


def test_what_is_no_version_is_not_learnt() -> None:
    known = KnownVersions(("own",))
    assert not known.learn(("", "unknown", "Unknown", "(other)", "v1\u200b", " v1", "v" * 129, "\ud800"))
    assert known.names == {"own"}


def test_the_version_that_was_named_least_recently_is_forgotten() -> None:
    known = KnownVersions(("own",))
    known.learn(f"v{number}" for number in range(MAX_LEARNT))
    known.learn(("v0",))
    assert known.learn(("another",))
    assert len(known.names) == MAX_LEARNT + 1
    assert {"own", "another", "v0"} <= known.names
    assert "v1" not in known.names


def test_a_flood_of_versions_ends_with_the_newest() -> None:
    known = KnownVersions(("own",))
    known.learn(f"v{number}" for number in range(10 * MAX_LEARNT))
    assert known.names == {"own", *(f"v{number}" for number in range(9 * MAX_LEARNT, 10 * MAX_LEARNT))}
