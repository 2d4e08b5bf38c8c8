"""
Finds what breaks streams between here and a server.

It opens real streams through all proxies on the way, and examines what arrives and when. Needs `headcount[client]`.
"""

from .examination import examine
from .findings import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
