"""`python -m headcount`."""

from .cli import main

main()
