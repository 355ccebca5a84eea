"""`GET /v1/tasks/{id}/timeline`: what happened to a task, and what it waits for."""

from __future__ import annotations

from aiohttp import web

from receiver.errors import ReceiverError
from receiver.web.context import CONTEXT
from receiver.web.request import check_query, read_id, read_text
from receiver.web.views import json_response

__all__ = ["timeline"]


async def timeline(request: web.Request) -> web.Response:
    """200 with the timeline, 404 for a task that is not known."""
    check_query(request, "provider")
    found = await request.app[CONTEXT].inbox.timeline(read_id(request), read_text(request, "provider"))
    if found is None:
        raise ReceiverError("unknown-task", "no task has this ref or taskId")
    return json_response(found.model_dump_json(by_alias=True).encode())
