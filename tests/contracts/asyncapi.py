"""The contract of the streams as AsyncAPI 3.0, for people and for tools of any language.

Frames and schemas come from the models of the wire, and limits from the constants that are enforced, so the document
cannot differ from them. `make docs` writes it to `asyncapi.json`. The server only serves this file.
"""

from __future__ import annotations

from typing import Any

from aiohttp import WSCloseCode
from pydantic_core import to_json

from client.protocol.frames import (
    ANSWERS,
    EVENTS,
    MAX_FRAME_BYTES,
    MAX_NAME_BYTES,
    MAX_NAME_BYTES_EACH,
    MAX_NAMED,
    NAME_BYTES,
    NAMES_AT_ONCE,
    REQUESTS,
    SUBPROTOCOL,
    Request,
    StreamFrame,
    type_of,
)
from client.providers.values import MAX_TASK_ID_LENGTH
from client.version import VERSION
from receiver.service.tickets import TICKET_SECONDS
from receiver.settings import Settings
from receiver.web.routes import ROUTES
from receiver.web.streaming.streams import StreamRules
from tests.contracts.examples import EXAMPLES
from tests.contracts.schemas import ref_to, require, schemas_of, unwrapped

__all__ = ["document", "rendered"]

_RULES = StreamRules(send_seconds=Settings.model_fields["send_timeout_seconds"].default)

_CLOSE_CODES = {
    WSCloseCode.GOING_AWAY: "The receiver shuts down; `goodbye` came before.",
    WSCloseCode.UNSUPPORTED_DATA: "A frame was not text.",
    WSCloseCode.POLICY_VIOLATION: f"No subscription came within {_RULES.subscribe_seconds:g} seconds, "
    "or, with the reason `no-key`, the key was revoked or has expired.",
    WSCloseCode.MESSAGE_TOO_BIG: f"A frame had more than {MAX_FRAME_BYTES} bytes.",
    WSCloseCode.TRY_AGAIN_LATER: "No room; the reason is `too-many-streams` (of this key) or `receiver-full`.",
}

_ABOUT = """\
All results stand in one log. Every frame that moves on has a `cursor`, an opaque place in this log. A reader that goes
on from its last cursor misses nothing. Pages (`GET /v1/results`), long polls, the websocket and server-sent events take
and give the same cursors, so a reader may change from one to another in the middle.

Receivers and subscribers may have different versions: ignore unknown fields and types."""

_SUBSCRIBE = f"""\
JSON text frames, one subscription for each socket. The subprotocol is `{SUBPROTOCOL}`.

**Order and repetition.** Results come in the order of the log, and only after they were stored. `subscribed` comes
before anything that the subscription brings. Each request gets one answer, in the order of the requests. Frames of the
log may stand before or behind it. Going on from the last `cursor` brings everything behind it, once. Only named tasks
that have ended come each time they are named, whatever the cursor.

**Heartbeats.** A `heartbeat` frame comes every {_RULES.heartbeat_seconds:g} seconds if nothing else is sent, the first
at most {2 * _RULES.heartbeat_seconds:g} seconds behind it, and a websocket ping every {_RULES.ping_seconds:g} seconds.
A peer is cut off if it answers no ping within {_RULES.ping_seconds / 2:g} seconds, or reads nothing for
{_RULES.send_seconds:g} seconds (a setting).

**Limits.** {NAMES_AT_ONCE} tasks named in one frame, {MAX_NAMED} in one subscription; {MAX_FRAME_BYTES} bytes for a
frame to the receiver; {MAX_TASK_ID_LENGTH} characters or digits for a `taskId`.

Each named task counts with {NAME_BYTES} bytes and those of its text, four for a character outside ASCII. The limits are
{MAX_NAME_BYTES_EACH} bytes for each key, and {MAX_NAME_BYTES} in all. An `add` beyond them names nothing and gets the
`problem` `too-many-names` or `receiver-full`: send it again later.

If a socket sends more frames, names or bytes than the receiver has time for, then it is read later. Nothing is refused
or lost, and TCP holds the sender back. About 60,000 names pass at once, then 10,000 names, 4,000 frames or 2 MB a
second, and fewer while many sockets send.

**Refusals.** Before the upgrade by HTTP: 401 without a known key or ticket, 403 where the key lacks the scope `read`
(`scope-missing`) or the page's origin is not among `RECEIVER_ALLOWED_ORIGINS` (`origin-refused`). An unreadable
request is answered by `problem`, and the socket stays open. So is one that names a provider outside the limits of the
key (`provider-not-allowed`). Tasks of such providers are unknown to it. Otherwise the socket is closed with one of
these codes:

"""

_STREAM = """\
Server-sent events with the frames of the websocket: `event` is the frame's `type`, `id` its cursor (for a gap
`resumesAt`), `data` its JSON. The stream begins with `retry`, and with a heartbeat that has its first cursor, unless
another frame has it. The header `Last-Event-ID` is a cursor and wins over `after`. Browsers send it when they
reconnect. Polyfills that cannot send it use the parameter `lastEventId` (`lastEventID`, `Last-Event-ID`). The header
wins over it, and of several the last one counts. Refusals are as for the websocket,
before the stream begins; over a limit it is 429 `too-many-streams` or 503 `receiver-full`."""

_SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "`Authorization: Bearer <secret>`, with a key of scope `read`.",
    },
    "subprotocol": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": f"Beside `{SUBPROTOCOL}`, which alone is echoed: `bearer.<key>`, or for pages in a browser "
        f"`ticket.<ticket>`. `POST /v1/tickets` gives a ticket for a key. It lives {TICKET_SECONDS:g} seconds "
        "and opens one websocket.",
    },
    "ticket": {
        "type": "httpApiKey",
        "in": "query",
        "name": "ticket",
        "description": "A ticket for pages in a browser, for server-sent events only. It is valid for reconnects, too.",
    },
}


def rendered() -> str:
    """Return the document as the text of its file."""
    return to_json(document(), indent=1).decode() + "\n"


def document() -> dict[str, Any]:
    """Return the document, made anew from the models."""
    requests, answers, notices = (tuple(map(type_of, group)) for group in (REQUESTS, ANSWERS, EVENTS))
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Callback receiver: streams of results", "version": VERSION, "description": _ABOUT},
        "defaultContentType": "application/json",
        "servers": {"websocket": _server("wss", "key", "subprotocol"), "events": _server("https", "key", "ticket")},
        "channels": {
            "subscribe": {
                "address": "/v1/subscribe",
                "title": "Websocket",
                "description": _SUBSCRIBE + "\n".join(f"* {code:d}: {text}" for code, text in _CLOSE_CODES.items()),
                "servers": [ref_to("servers", "websocket")],
                "messages": {name: ref_to("components", "messages", name) for name in (*requests, *answers, *notices)},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
                "x-close-codes": {f"{code:d}": text for code, text in _CLOSE_CODES.items()},
            },
            "stream": {
                "address": "/v1/results/stream",
                "title": "Server-sent events",
                "description": _STREAM,
                "servers": [ref_to("servers", "events")],
                "messages": {name: ref_to("components", "messages", name) for name in notices},
            },
        },
        "operations": {
            "ask": {
                "action": "receive",
                "summary": "Requests of a subscriber, and their answers.",
                **_over("subscribe", requests),
                "reply": _over("subscribe", answers),
            },
            "tell": {
                "action": "send",
                "summary": "Frames of the log, as they come.",
                **_over("subscribe", notices),
            },
            "stream": {
                "action": "send",
                "summary": "The same frames, for readers that send nothing.",
                **_over("stream", notices),
                "bindings": {"http": {"method": "GET", "query": _query(), "bindingVersion": "0.3.0"}},
            },
        },
        "components": {
            "messages": {type_of(frame): _message(frame) for frame in (*REQUESTS, *ANSWERS, *EVENTS)},
            "schemas": _schemas(),
            "securitySchemes": _SECURITY,
        },
    }


def _server(protocol: str, *security: str) -> dict[str, Any]:
    return {
        "host": "{host}",
        "protocol": protocol,
        "description": "The receiver's host, with the path of its public URL, if it has one.",
        "variables": {"host": {"default": "callbacks.example.org"}},
        "security": [ref_to("components", "securitySchemes", name) for name in security],
    }


def _over(channel: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "channel": ref_to("channels", channel),
        "messages": [ref_to("channels", channel, "messages", name) for name in names],
    }


def _query() -> dict[str, Any]:
    query = next(route.query for route in ROUTES if route.path == "/v1/results/stream") or {}
    described = {name: {"type": "string", "description": text} for name, text in query.items()}
    return {"type": "object", "properties": described, "additionalProperties": False}


def _message(frame: type[Request | StreamFrame]) -> dict[str, Any]:
    summary, _, more = unwrapped(frame.__doc__ or "").partition("\n\n")
    return {
        "name": type_of(frame),
        "summary": summary,
        **({"description": more} if more else {}),
        **({"correlationId": {"location": "$message.payload#/id"}} if "id" in frame.model_fields else {}),
        "payload": ref_to("components", "schemas", frame.__name__),
        "examples": [
            {"payload": EXAMPLES[frame].model_dump(mode="json", by_alias=True, exclude_unset=frame in REQUESTS)}
        ],
    }


def _schemas() -> dict[str, Any]:
    """Return a schema for each model, by name. Frames from the receiver are described as written, not as read."""
    schemas = schemas_of(REQUESTS, (*ANSWERS, *EVENTS))
    for request in REQUESTS:
        require(schemas[request.__name__], ["type"])
    for frame in (*ANSWERS, *EVENTS):
        require(schemas[frame.__name__], EXAMPLES[frame].model_dump(by_alias=True))
    schemas["ProblemFrame"]["properties"]["problem"] = ref_to("components", "schemas", "Problem")
    return schemas
