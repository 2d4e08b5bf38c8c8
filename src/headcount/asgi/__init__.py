"""Headcount as an ASGI application: endpoints and transports."""
