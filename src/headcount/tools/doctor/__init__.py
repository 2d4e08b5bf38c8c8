"""
What between here and a server breaks streams, in sentences.

It opens real streams through whatever lies between, and looks at what comes and when. Needs `headcount[client]`.
"""

from .examination import examine
from .findings import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
