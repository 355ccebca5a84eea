"""`POST /v1/tickets`: tickets with which pages in a browser open streams."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aiohttp import web

from client.protocol.models import Ticket
from receiver.errors import ReceiverError
from receiver.service.tickets import TICKET_SECONDS
from receiver.web.context import RUNTIME
from receiver.web.middleware import API_KEY
from receiver.web.server.bodies import read_body
from receiver.web.views import json_response

__all__ = ["make_ticket"]

_MOST_BODY_BYTES = 1024


async def make_ticket(request: web.Request) -> web.Response:
    """Return a ticket for the API key of the request. A websocket uses it up, server-sent events until it expires."""
    if (await read_body(request, _MOST_BODY_BYTES)).strip() not in (b"", b"{}"):
        raise ReceiverError("wrong-field", "body: expected none, or an empty JSON object")
    ticket = await request.app[RUNTIME].tickets.make(request[API_KEY])
    view = Ticket(ticket=ticket, ends_at=datetime.now(UTC) + timedelta(seconds=TICKET_SECONDS))
    return json_response(view.model_dump_json(by_alias=True).encode(), 201)
