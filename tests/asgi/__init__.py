"""The ASGI application with plain receive and send: no server, no socket."""
