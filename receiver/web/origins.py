"""Pages in a browser: a browser tells where its request comes from, and other programs tell nothing.

Without keys, any page could otherwise use a receiver on the machine of its reader: a POST of `text/plain` asks nobody
(Fetch standard, 2.2.2, "CORS-safelisted").
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from receiver.errors import ReceiverError
from receiver.settings import Settings
from receiver.web.context import CONTEXT

__all__ = ["allowed_origin", "origin_headers", "origins_of"]

_FOREIGN = frozenset({"cross-site", "same-site"})


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
    if len(told) > 1 or told[0] not in request.app[CONTEXT].origins:
        raise _refused("Origin")
    return told[0]


def _refused(header: str) -> ReceiverError:
    text = f"{header}: no page from there may use this receiver; see RECEIVER_ALLOWED_ORIGINS"
    return ReceiverError("origin-refused", text)


def origin_headers(origin: str | None) -> dict[str, str]:
    """What lets a page of this origin read the response."""
    return {"Vary": "Origin"} if origin is None else {"Vary": "Origin", "Access-Control-Allow-Origin": origin}
