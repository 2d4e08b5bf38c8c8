"""Frameworks that keep the session and the user somewhere else than in the ASGI scope; one thin file each."""
