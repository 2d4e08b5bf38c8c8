"""Headcount under real server processes, over real TCP."""
