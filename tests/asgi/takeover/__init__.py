"""Streams on the bare socket: what goes over it, and what is left behind."""
