"""
Streams on the bare socket, without ASGI, where the server is uvicorn and uses Headcount's protocol class.

A request for a stream goes through the application's middleware, as any other, until Headcount has answered it. Then
the socket is handed over: from uvicorn's protocol object to one of ours, which is all that is left of the request. No
task, no coroutine, no scope and no parser is kept for a stream.

    choose.py            which class uvicorn gets as `http=`
    first_request.py     the first request of a connection to `headcount serve`; opens most streams
    serve_protocol.py    every other request there
    protocol.py          uvicorn's class, extended: offers the socket of each request for a stream
    declined_upgrade.py  the rest of a request that asks for another protocol and does not get it
    handshake.py         the opening handshake of a WebSocket, as far as ASGI sees it
    uvicorn_fallback.py  a WebSocket of the application's own, handed back to uvicorn
    cached_heads.py      heads of responses
    direct_sessions.py   the streams themselves; each is a `headcount.node.session.Session`

Source: docs/adr/0011-takeover.md
"""
