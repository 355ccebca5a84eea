"""`GET /v1/results`: the log, oldest first, by cursor."""

from __future__ import annotations

from aiohttp import web
from pydantic_core import to_json

from receiver.web.context import RUNTIME
from receiver.web.filtering import read_filter
from receiver.web.middleware import KEY_NAME
from receiver.web.request import read_int, read_text, read_wait
from receiver.web.views import entry_json, json_response

__all__ = ["results"]


async def results(request: web.Request) -> web.Response:
    """Return a page of the log. Wait for the next result as `wait` says, at most 50 s.

    Without `after` the page begins now, with `after=start` at the oldest entry kept.
    """
    runtime, owner = request.app[RUNTIME], request[KEY_NAME]
    only = read_filter(request)
    after = read_text(request, "after") or await runtime.store.head()
    limit = read_int(request, "limit", default=100, most=1000)
    page = await runtime.results.page(
        None if after == "start" else after,
        only,
        limit=limit,
        seconds=read_wait(request),
        owner=owner,
        turn=runtime.unsent.turn(owner),
    )
    entries = b",".join(entry_json(entry, runtime.store.cursor_at) for entry in page.entries)
    rest = to_json({"cursor": page.cursor, "more": page.more})
    return json_response(b'{"results":[%b],%b' % (entries, rest[1:]))
