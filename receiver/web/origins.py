"""Which pages may open streams: a browser tells the origin of the page, and other programs tell none."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from receiver.errors import ReceiverError
from receiver.settings import Settings
from receiver.web.context import CONTEXT

__all__ = ["allowed_origin", "origin_headers", "origins_of"]


def origins_of(settings: Settings) -> frozenset[str]:
    """The origins that may: those of the settings, and the one under which the receiver itself is reached.

    Not that of the Host header, which says what the page's name resolves to and not who wrote the page.
    """
    given = set(settings.origins)
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        given.add(f"{parts.scheme}://{parts.netloc.lower()}")
    return frozenset(map(_as_browsers_tell, given))


def _as_browsers_tell(origin: str) -> str:
    """The origin without the port that its scheme has anyway (RFC 6454, 6.2)."""
    return origin.removesuffix({"https": ":443", "http": ":80"}[urlsplit(origin).scheme])


def allowed_origin(request: web.Request) -> str | None:
    """The origin of the page that asks; None where none is told.

    Raises:
        ReceiverError: `origin-refused`: the page may not.
    """
    origin = request.headers.get("Origin")
    if origin is None or origin in request.app[CONTEXT].origins:
        return origin
    raise ReceiverError("origin-refused", "Origin: no page from there may read here; see RECEIVER_ALLOWED_ORIGINS")


def origin_headers(origin: str | None) -> dict[str, str]:
    """What lets a page of this origin read the response."""
    return {"Vary": "Origin"} if origin is None else {"Vary": "Origin", "Access-Control-Allow-Origin": origin}
