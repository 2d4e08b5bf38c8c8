"""
`python -m headcount`.

Tests: tests/test_public_names.py.
"""

from .cli import main

main()
