"""
Which version is current.

Rules:

1. The version that was declared last, whatever the nodes serve: an operator may declare a version that only another
   server delivers.
2. Else the version that all nodes serve.
3. Else it is not known, as in a rolling update before the release: nodes serve several versions, or one does not say
   (a node of an older Headcount). Then nobody is known to be outdated, and nobody is known to be up to date.

A node that has not reported yet decides nothing: the figures are partial because of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from .labels import OTHER

MAX_NAMED: Final = 3
"""Versions that a sentence names."""


def current_version(declared: str | None, serving: Mapping[str, int], silent: int = 0) -> str | None:
    """
    Return the current version; None: it is not known.

    Args:
        declared: The version that was declared last; None: there was none.
        serving: `{version: nodes}` of those that say which version they serve.
        silent: Nodes that do not say.
    """
    if declared is not None:
        return declared
    if len(serving) != 1 or silent:
        return None
    return next((version for version in serving if version != OTHER), None)


def why_unknown(serving: Mapping[str, int] | None, nodes: int) -> str:
    """
    Say why the current version is not known, and what to do, as the end of a sentence.

    Args:
        serving: As in `current_version`; None: the server does not say.
        nodes: Nodes whose share is in the figures.
    """
    if serving is None:
        return "the current version is not known"
    versions = sorted(serving, key=lambda version: (-serving[version], version))
    todo = "declare one: headcount release VERSION URL"
    if len(versions) > 1:
        return f"nodes serve {_listed(versions)}, and no release was declared; {todo}"
    silent = max(1, nodes - sum(serving.values()))
    who = "nodes does not say which version it serves" if silent == 1 else "nodes do not say which version they serve"
    return f"{silent} of {nodes} {who}, and no release was declared; {todo}"


def count_versions(versions: Iterable[str]) -> dict[str, int]:
    """Return `{version: nodes}` of the nodes that say which version they serve; an empty one does not say."""
    found: dict[str, int] = {}
    for version in versions:
        if version:
            found[version] = found.get(version, 0) + 1
    return found


def _listed(versions: Sequence[str]) -> str:
    rest = len(versions) - MAX_NAMED
    if rest > 1:
        return f"{', '.join(versions[:MAX_NAMED])} and {rest} other versions"
    return f"{', '.join(versions[:-1])} and {versions[-1]}"
