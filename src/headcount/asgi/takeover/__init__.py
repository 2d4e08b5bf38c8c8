"""
Streams on the bare socket, beneath ASGI, where the server is uvicorn and was asked for it.

A request for a stream goes the ordinary way, through the application's middleware, until Headcount has answered it.
Then the socket is handed over: from uvicorn's protocol object to one of ours, which is all that is left of the request.
No task, no coroutine, no scope and no parser is kept for a stream.

    choose.py      which class uvicorn is given as `http=`
    door.py        what a connection to `headcount serve` meets first, and opens most streams
    alone.py       the class that takes the rest there
    protocol.py    ours: offers the socket of each request that asks for a stream
    handshake.py   the opening handshake of a WebSocket, as far as ASGI sees it
    streams.py     the streams themselves; each is a `headcount.node.session.Session`

Source: docs/adr/0011-takeover.md
"""
