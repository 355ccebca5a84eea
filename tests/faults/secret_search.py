"""A search for secrets in texts, in every form in which one could get there."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from urllib.parse import quote

__all__ = ["found"]

_HALF_CHARS = 12


def found(secrets: Mapping[str, str | bytes], texts: Mapping[str, bytes]) -> list[str]:
    """Return the names of the secrets in the texts, each with the form, the text, and the surrounding of the place."""
    return [
        f"{name}, {form}, in {text_name}: {text[max(0, place - 60) : place + 60]!r}"
        for name, secret in secrets.items()
        for form, part in _forms(secret)
        for text_name, text in texts.items()
        if (place := text.find(part)) >= 0
    ]


def _forms(secret: str | bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the secret as it is, its halves if they are long enough, and both in the usual codings."""
    raw = secret.encode() if isinstance(secret, str) else secret
    yield "whole", raw
    half = len(raw) // 2
    if half >= _HALF_CHARS:
        yield "first half", raw[:half]
        yield "second half", raw[half:]
    # Without the last characters, which depend on what follows.
    yield "base64", base64.b64encode(raw)[:-4]
    yield "base64url", base64.urlsafe_b64encode(raw)[:-4]
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    yield "escaped for a URL", quote(raw).encode()
    yield "escaped by Python", repr(raw)[2:-1].encode()
