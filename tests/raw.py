"""Requests of subscribers as bytes, for peers too slow or too many for a client library."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence

__all__ = ["PONG", "events_request", "poll_request", "text_frame", "websocket_request"]

PONG = b"\x8a\x80\x00\x00\x00\x00"
"""The answer of a client to a ping without content."""


def websocket_request(key: str, **subscribe: object) -> bytes:
    """Return a handshake with a subscription right behind it."""
    lines = [
        "GET /v1/subscribe HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        f"Authorization: Bearer {key}",
    ]
    return _head(lines) + text_frame({"type": "subscribe", "id": 1, **subscribe})


def text_frame(fields: dict[str, object]) -> bytes:
    """Return a frame of a client with the required mask, here a mask of zeros."""
    payload = json.dumps(fields).encode()
    size = len(payload)
    if size < 126:
        head = bytes([0x81, 0x80 | size])
    elif size < 2**16:
        head = bytes([0x81, 0x80 | 126]) + size.to_bytes(2)
    else:
        head = bytes([0x81, 0x80 | 127]) + size.to_bytes(8)
    return head + bytes(4) + payload


def events_request(key: str, tasks: Sequence[str] = ()) -> bytes:
    """Return a stream of server-sent events; without tasks: of everything."""
    query = f"?tasks={','.join(tasks)}" if tasks else ""
    return _head([f"GET /v1/results/stream{query} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}"])


def poll_request(key: str, ref: str) -> bytes:
    """Return a long poll for one task."""
    return _head([f"GET /v1/tasks/{ref}?wait=50 HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}"])


def _head(lines: Sequence[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode()
