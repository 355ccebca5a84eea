"""Access: API keys with scopes, tickets, and the origins of pages in a browser.

A browser sends the origin of a request; other programs do not. Without keys, any page could otherwise use a receiver on
its reader's machine. A browser sends a POST of `text/plain` without asking the server first (Fetch standard, 2.2.2,
"CORS-safelisted").
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web

from client.protocol.filters import CANARY
from client.protocol.frames import SUBPROTOCOL
from receiver.errors import ReceiverError
from receiver.service.keys import ANONYMOUS, CANARY_KEY
from receiver.settings import ApiKey, Settings, is_loopback
from receiver.web.context import RUNTIME, Runtime
from receiver.web.edge.addresses import client_ip, owner_of
from receiver.web.middleware import API_KEY, KEY_NAME, Handler, problem_response
from receiver.web.request import check_query

__all__ = [
    "allowed_origin",
    "bearer_key",
    "check_provider",
    "key_in_subprotocol",
    "needs",
    "needs_for_stream",
    "origin_headers",
    "origins_of",
]

# Headers that proxies and content networks add: their own names, and those that many share.
_FORWARDING_HEADERS = re.compile(
    r"forwarded|via|cdn-loop|(x-)?(real|client|cluster-client|true-client|connecting)-ip"
    r"|(x-forwarded|x-original|x-envoy|x-azure|x-appengine|x-amz|x-amzn|x-arr|cf|fly|fastly|true|do-connecting)-.+"
    r"|x-rewrite-url|x-proxyuser-ip|x-host",
    re.IGNORECASE | re.ASCII,
)
_JSON = re.compile(r"application/json|[^/]+/[^/]+\+json")
_FOREIGN = frozenset({"cross-site", "same-site"})


def needs(scope: str, handler: Handler, *, query: Collection[str] | None) -> Handler:
    """Return the handler behind a key with `scope`.

    It answers 403 without the scope or to a page of another origin, and 415 to a body without a JSON type. A browser
    sends JSON to another origin only if that one agrees, and the receiver does not. Without a known key it answers 401,
    after a delay (`receiver.web.edge.attempts`).

    Parameters other than `query` get 422, unless `query` is None. A key that was revoked during a GET gets 401, too. So
    a wait brings it nothing.
    """

    async def behind_key(request: web.Request) -> web.StreamResponse:
        allowed_origin(request)
        runtime = request.app[RUNTIME]
        try:
            key = _admit(request, _key(request, scope))
        except ReceiverError as error:
            await _delay(request, error)
            raise
        if scope != "admin":
            # Metrics are read when something is wrong.
            runtime.overload.check(is_read=request.method == "GET")
        runtime.unsent.check(key.name)
        if request.body_exists and not _JSON.fullmatch(request.content_type):
            text = f"Content-Type: expected application/json, got {request.content_type[:80]}"
            raise ReceiverError("unsupported-media-type", text)
        if query is not None:
            check_query(request, query)
        response = await handler(request)
        if request.method == "GET" and not runtime.keys.is_valid(key):
            raise ReceiverError("no-key", "Authorization: the API key is no longer valid")
        return response

    return behind_key


def needs_for_stream(handler: Handler) -> Handler:
    """Return the handler behind a key with `read`, or a ticket made with one; pages need an allowed origin, too.

    A page cannot add headers when it opens a stream. So a websocket may bring its key or ticket as a subprotocol,
    `bearer.<key>` or `ticket.<ticket>`, and server-sent events bring a ticket as `?ticket=`.
    """

    async def behind_key_or_ticket(request: web.Request) -> web.StreamResponse:
        origin = allowed_origin(request)
        try:
            try:
                _admit(request, await _stream_key(request))
            except ReceiverError as error:
                await _delay(request, error)
                raise
            request.app[RUNTIME].overload.check(is_read=True)
            return await handler(request)
        except ReceiverError as error:
            # The page may read the reason, too.
            response = problem_response(error)
            response.headers.update(origin_headers(origin))
            return response

    return behind_key_or_ticket


async def _delay(request: web.Request, error: ReceiverError) -> None:
    """Delay the refusal of an unknown key or ticket."""
    if error.slug == "no-key":
        runtime = request.app[RUNTIME]
        await runtime.attempts.delay(owner_of(client_ip(request, runtime.proxies)))


def _admit(request: web.Request, key: ApiKey) -> ApiKey:
    """Set the key, and count the request, unless the front has done so. Return the key."""
    is_counted = KEY_NAME in request
    request[API_KEY] = key
    request[KEY_NAME] = key.name
    if not is_counted:
        request.app[RUNTIME].edge.admit_key(key.name)
    return key


async def _stream_key(request: web.Request) -> ApiKey:
    runtime = request.app[RUNTIME]
    named = key_in_subprotocol(request)
    if named is not None and named[0] == CANARY:
        return _canary_key(runtime, named[1])
    ticket = request.query.get("ticket") if "?" in request.raw_path else None
    if named is None and ticket is None:
        return _key(request, "read")
    if named is not None and named[0] == "bearer":
        return _known_key(runtime, named[1], "read", "Sec-WebSocket-Protocol")
    # A websocket uses its ticket up. Server-sent events reconnect by themselves, with the same address.
    field = "ticket" if named is None else "Sec-WebSocket-Protocol"
    text = ticket or "" if named is None else named[1]
    key = await runtime.tickets.key_of(text, is_used_up=named is not None)
    if key is None:
        raise ReceiverError(
            "no-key", f"{field}: the ticket is unknown, used or expired; get a new one by POST /v1/tickets"
        )
    return key


def _canary_key(runtime: Runtime, token: str) -> ApiKey:
    if not runtime.signing_keys.is_reader(token):
        raise ReceiverError("no-key", "Sec-WebSocket-Protocol: this receiver did not sign the token, or it has expired")
    return CANARY_KEY


def key_in_subprotocol(request: web.Request) -> tuple[str, str] | None:
    """Return the kind ("bearer", "ticket" or "canary") and the secret of a subprotocol, or None if there is neither.

    Raises:
        ReceiverError: `bad-request`: the subprotocol of the frames is not in the list.
    """
    given = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if part.strip()]
    if given and SUBPROTOCOL not in given:
        raise ReceiverError("bad-request", f"Sec-WebSocket-Protocol: expected {SUBPROTOCOL} in the list")
    for name in given:
        kind, dot, secret = name.partition(".")
        if dot and kind in ("bearer", "ticket", CANARY):
            return kind, secret
    return None


def _key(request: web.Request, scope: str) -> ApiKey:
    if request.app[RUNTIME].keys.is_anonymous:
        _check_is_local(request)
        return ANONYMOUS
    return bearer_key(request, request.app[RUNTIME], scope)


def bearer_key(request: web.BaseRequest, runtime: Runtime, scope: str) -> ApiKey:
    """Return the API key in the request.

    Raises:
        ReceiverError: `no-key`, `scope-missing`.
    """
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret:
        raise ReceiverError("no-key", "Authorization: expected `Bearer <secret>`")
    return _known_key(runtime, secret, scope, "Authorization")


def _known_key(runtime: Runtime, secret: str, scope: str, field: str) -> ApiKey:
    key = runtime.keys.find(secret)
    if key is None:
        raise ReceiverError("no-key", f"{field}: this receiver does not know the API key, or no longer")
    if scope not in key.scopes:
        raise ReceiverError("scope-missing", f"{field}: the API key {key.name} lacks the scope {scope}")
    return key


def check_provider(key: ApiKey, provider: str | None) -> None:
    """Check that the key may use a provider named in a request. None names none.

    Raises:
        ReceiverError: `provider-not-allowed`.
    """
    if key.providers is not None and provider is not None and provider not in key.providers:
        allowed = ", ".join(sorted(key.providers))
        raise ReceiverError("provider-not-allowed", f"provider: the API key {key.name} is limited to {allowed}")


def _check_is_local(request: web.Request) -> None:
    """Refuse requests that come through a proxy, or under another host name, as a page does by DNS rebinding.

    Without keys, only this machine may use the receiver.
    """
    is_forwarded = any(map(_FORWARDING_HEADERS.fullmatch, request.headers))
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        host = ""
    if is_forwarded or not is_loopback(host):
        raise ReceiverError(
            "no-key", "this receiver has no API keys, so it answers only direct requests from its own machine"
        )


def origins_of(settings: Settings) -> frozenset[str]:
    """Return the allowed origins: those of the settings, and that of the public URL.

    The Host header is not used. It shows what the page's name resolves to, not who wrote the page.
    """
    given = set(settings.origins)
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        given.add(f"{parts.scheme}://{parts.netloc.lower()}")
    return frozenset(map(_as_browsers_write, given))


def _as_browsers_write(origin: str) -> str:
    """Return the origin without the default port of its scheme (RFC 6454, 6.2)."""
    return origin.removesuffix({"https": ":443", "http": ":80"}[urlsplit(origin).scheme])


def allowed_origin(request: web.Request) -> str | None:
    """Return the origin of the page behind the request. None if there is no page, or it is of the receiver's origin.

    Raises:
        ReceiverError: `origin-refused`: the origin is not allowed, or there are several.
    """
    origins = request.headers.getall("Origin", ())
    if not origins:
        # Browsers leave Origin out of some requests (images, links), but send this header (Fetch Metadata, 2.3).
        if _FOREIGN.isdisjoint(map(str.lower, request.headers.getall("Sec-Fetch-Site", ()))):
            return None
        raise _refused("Sec-Fetch-Site")
    if len(origins) > 1 or origins[0] not in request.app[RUNTIME].origins:
        raise _refused("Origin")
    return origins[0]


def _refused(header: str) -> ReceiverError:
    text = f"{header}: pages of this origin may not use this receiver; RECEIVER_ALLOWED_ORIGINS can allow it"
    return ReceiverError("origin-refused", text)


def origin_headers(origin: str | None) -> dict[str, str]:
    """Return the headers that let a page of this origin read the response."""
    return {"Vary": "Origin"} if origin is None else {"Vary": "Origin", "Access-Control-Allow-Origin": origin}
