"""Who may do what: API keys and their scopes."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from receiver.errors import ReceiverError
from receiver.settings import is_loopback
from receiver.web.context import CONTEXT
from receiver.web.problems import KEY_NAME

__all__ = ["needs"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FORWARDING_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_ANONYMOUS = "anonymous"


def needs(scope: str, handler: Handler) -> Handler:
    """The handler, behind a key with `scope`: 401 without a known key, 403 without the scope."""

    async def behind_key(request: web.Request) -> web.StreamResponse:
        request[KEY_NAME] = _key_name(request, scope)
        return await handler(request)

    return behind_key


def _key_name(request: web.Request, scope: str) -> str:
    keys = request.app[CONTEXT].api_keys
    if not keys:
        _check_is_local(request)
        return _ANONYMOUS
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret:
        raise ReceiverError("no-key", "Authorization: expected `Bearer <secret>`")
    # Digests are compared: the time this takes tells nothing about the secret.
    digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
    key = next((key for key in keys if key.digest == digest), None)
    if key is None:
        raise ReceiverError("no-key", "Authorization: the key is not known here")
    if scope not in key.scopes:
        raise ReceiverError("scope-missing", f"the key {key.name} lacks the scope {scope}")
    return key.name


def _check_is_local(request: web.Request) -> None:
    """Without keys, only this machine may ask: no proxy in front, and no page of another site by DNS rebinding."""
    is_forwarded = any(name in request.headers for name in _FORWARDING_HEADERS)
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        host = ""
    if is_forwarded or not is_loopback(host):
        raise ReceiverError("no-key", "without keys this receiver answers only direct requests from its own machine")
