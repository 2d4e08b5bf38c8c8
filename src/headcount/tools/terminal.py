"""
Text from visitors made fit for a terminal.

Tests: tests/tools/test_top.py, tests/cli/test_asking.py.
"""


def printable(text: str) -> str:
    """
    Return a text without characters that a terminal obeys, or that reverse or hide the rest of the line.

    Labels are what pages report about themselves, so they may hold anything.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
