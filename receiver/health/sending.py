"""Sends notices by Apprise, in a process of its own: `python -m receiver.health.sending`.

Apprise blocks, and its threads cannot be stopped: the end of the receiver would wait for a service that hangs. A
process can be killed. It also keeps the 40 MB of Apprise out of the receiver. The request comes on standard input,
because other users of the machine can read arguments.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any
from urllib.parse import unquote

__all__ = ["MISSING", "UNKNOWN", "main"]

MISSING = "missing"
"""The answer if Apprise is not installed."""

UNKNOWN = "unknown"
"""The answer about a URL that Apprise does not know."""

_LONGEST_REASON = 300
_HIDDEN = "…"


def main() -> None:
    """Read `urls` and a `message`, which may be null, as JSON. Write an answer for each URL: null, or a reason."""
    request = json.load(sys.stdin)
    json.dump([_send(url, request["message"]) for url in request["urls"]], sys.stdout)


def _send(url: str, message: dict[str, Any] | None) -> str | None:
    """Send the message, or only check the URL."""
    try:
        import apprise
    except ImportError:
        return MISSING
    # Its lines have URLs in them.
    logging.getLogger("apprise").propagate = False
    server = apprise.Apprise(asset=apprise.AppriseAsset(app_id="callback-receiver", app_desc="", async_mode=False))
    if not server.add(url):
        return UNKNOWN
    if message is None:
        return None
    result = server.notify(**message, body_format="text")
    if result:
        return None
    # The last warning of Apprise tells why the service refused.
    reasons = [entry.message for entry in result.logs()] or ["the service did not take it"]
    return _without_secrets(reasons[-1], url)


def _without_secrets(text: str, url: str) -> str:
    """Return the text without any part of the URL. Short parts are left, because words would lose letters."""
    parts = re.split(r"[/:@?&=#,;\s]+", url.partition("://")[2])
    for secret in sorted({url, *parts, *map(unquote, parts)}, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, _HIDDEN)
    return text[:_LONGEST_REASON]


if __name__ == "__main__":
    main()
