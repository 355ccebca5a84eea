"""Who may do what: API keys and their scopes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from aiohttp import web

from client.protocol.frames import SUBPROTOCOL
from receiver.errors import ReceiverError
from receiver.settings import Settings, is_loopback
from receiver.web.context import RUNTIME
from receiver.web.middleware import KEY_NAME, problem_response
from receiver.web.request import check_query

__all__ = [
    "Handler",
    "allowed_origin",
    "key_in_subprotocol",
    "needs",
    "needs_for_stream",
    "origin_headers",
    "origins_of",
]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# What proxies and content networks add: their own names, and those that many share.
_FORWARDING_HEADERS = re.compile(
    r"forwarded|via|cdn-loop|(x-)?(real|client|cluster-client|true-client|connecting)-ip"
    r"|(x-forwarded|x-original|x-envoy|x-azure|x-appengine|x-amz|x-amzn|x-arr|cf|fly|fastly|true|do-connecting)-.+"
    r"|x-rewrite-url|x-proxyuser-ip|x-host",
    re.IGNORECASE | re.ASCII,
)
_JSON = re.compile(r"application/json|[^/]+/[^/]+\+json")
_ANONYMOUS = "anonymous"
_FOREIGN = frozenset({"cross-site", "same-site"})


def needs(scope: str, handler: Handler, *, query: Collection[str] | None) -> Handler:
    """Return the handler behind a key with `scope`.

    It answers 401 without a known key, 403 without the scope or to a page that may not, and 415 where there is a body
    that isn't said to be JSON. A browser sends JSON to another origin only if that agrees; this one doesn't.
    """

    async def behind_key(request: web.Request) -> web.StreamResponse:
        allowed_origin(request)
        request[KEY_NAME] = name = _key_name(request, scope)
        request.app[RUNTIME].unsent.check(name)
        if request.body_exists and not _JSON.fullmatch(request.content_type):
            raise ReceiverError("unsupported-media-type", "Content-Type: expected application/json")
        if query is not None:
            check_query(request, query)
        return await handler(request)

    return behind_key


def needs_for_stream(handler: Handler) -> Handler:
    """Return the handler, behind a key with `read` or a ticket that was made with one, and only for pages that may.

    A browser cannot send headers of its own when it opens a stream. So a websocket may bring them as subprotocols,
    `bearer.<key>` or `ticket.<ticket>`, and a stream of server-sent events brings a ticket as `?ticket=`.
    """

    async def behind_key_or_ticket(request: web.Request) -> web.StreamResponse:
        origin = allowed_origin(request)
        try:
            request[KEY_NAME] = _stream_key_name(request)
            return await handler(request)
        except ReceiverError as error:
            # The page may read why, too.
            response = problem_response(error)
            response.headers.update(origin_headers(origin))
            return response

    return behind_key_or_ticket


def _stream_key_name(request: web.Request) -> str:
    named = key_in_subprotocol(request)
    ticket = request.query.get("ticket") if "?" in request.raw_path else None
    if named is None and ticket is None:
        return _key_name(request, "read")
    if named is not None and named[0] == "bearer":
        return _name_of(request, named[1], "read", "Sec-WebSocket-Protocol")
    # A websocket uses its ticket up; server-sent events reconnect by themselves, with the same address.
    where = "ticket" if named is None else "Sec-WebSocket-Protocol"
    text = ticket or "" if named is None else named[1]
    owner = request.app[RUNTIME].tickets.owner_of(text, is_used_up=named is not None)
    if owner is None:
        raise ReceiverError("no-key", f"{where}: the ticket is not good (any more); ask for another one")
    return owner


def key_in_subprotocol(request: web.Request) -> tuple[str, str] | None:
    """Whether a key or a ticket came as a subprotocol ("bearer" or "ticket"), and which.

    Raises:
        ReceiverError: `bad-request`: the subprotocol of the frames does not stand beside it.
    """
    given = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if part.strip()]
    if given and SUBPROTOCOL not in given:
        raise ReceiverError("bad-request", f"Sec-WebSocket-Protocol: expected {SUBPROTOCOL} among them")
    for name in given:
        kind, dot, secret = name.partition(".")
        if dot and kind in ("bearer", "ticket"):
            return kind, secret
    return None


def _key_name(request: web.Request, scope: str) -> str:
    if not request.app[RUNTIME].api_keys:
        _check_is_local(request)
        return _ANONYMOUS
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret:
        raise ReceiverError("no-key", "Authorization: expected `Bearer <secret>`")
    return _name_of(request, secret, scope, "Authorization")


def _name_of(request: web.Request, secret: str, scope: str, where: str) -> str:
    # Digests are compared: the time this takes tells nothing about the secret.
    digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
    key = next((key for key in request.app[RUNTIME].api_keys if key.digest == digest), None)
    if key is None:
        raise ReceiverError("no-key", f"{where}: the key is not known here")
    if scope not in key.scopes:
        raise ReceiverError("scope-missing", f"the key {key.name} lacks the scope {scope}")
    return key.name


def _check_is_local(request: web.Request) -> None:
    """Without keys, only this machine may ask: no proxy in front, and no page of another site by DNS rebinding."""
    is_forwarded = any(map(_FORWARDING_HEADERS.fullmatch, request.headers))
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        host = ""
    if is_forwarded or not is_loopback(host):
        raise ReceiverError("no-key", "without keys this receiver answers only direct requests from its own machine")


def origins_of(settings: Settings) -> frozenset[str]:
    """Return the origins that may: those of the settings, and the one under which the receiver itself is reached.

    Not that of the Host header, which says what the page's name resolves to and not who wrote the page.
    """
    given = set(settings.origins)
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        given.add(f"{parts.scheme}://{parts.netloc.lower()}")
    return frozenset(map(_as_browsers_tell, given))


def _as_browsers_tell(origin: str) -> str:
    """Return the origin without the port that its scheme has anyway (RFC 6454, 6.2)."""
    return origin.removesuffix({"https": ":443", "http": ":80"}[urlsplit(origin).scheme])


def allowed_origin(request: web.Request) -> str | None:
    """Return the origin of the page that asks; None where no page does, or one of the receiver's own origin.

    Raises:
        ReceiverError: `origin-refused`: the page may not, or several origins are told.
    """
    told = request.headers.getall("Origin", ())
    if not told:
        # Browsers leave Origin out of some requests (images, links), but tell this (Fetch Metadata, 2.3).
        if _FOREIGN.isdisjoint(map(str.lower, request.headers.getall("Sec-Fetch-Site", ()))):
            return None
        raise _refused("Sec-Fetch-Site")
    if len(told) > 1 or told[0] not in request.app[RUNTIME].origins:
        raise _refused("Origin")
    return told[0]


def _refused(header: str) -> ReceiverError:
    text = f"{header}: no page from there may use this receiver; see RECEIVER_ALLOWED_ORIGINS"
    return ReceiverError("origin-refused", text)


def origin_headers(origin: str | None) -> dict[str, str]:
    """What lets a page of this origin read the response."""
    return {"Vary": "Origin"} if origin is None else {"Vary": "Origin", "Access-Control-Allow-Origin": origin}
