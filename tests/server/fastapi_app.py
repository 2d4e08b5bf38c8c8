"""Headcount in FastAPI, as most of its users have it: mounted, beside a route that reads the figures."""

from fastapi import FastAPI

from headcount import Headcount

headcount = Headcount(route_tracking=True)
app = FastAPI()
app.mount(headcount.base_path, headcount)


@app.get("/figures")
async def figures() -> dict[str, int]:
    """Return the number of pages on each route."""
    return dict((await headcount.stats()).routes)
