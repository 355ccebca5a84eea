"""Inflating: the original bytes or an error, and never more than the limit."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import ReceiverError
from receiver.web.server.bodies import inflated


@given(st.binary(max_size=2000), st.integers(0, 2000), st.integers(1, 5))
def test_what_was_compressed_comes_back_up_to_the_limit(body: bytes, limit: int, members: int) -> None:
    """Bytes in one gzip member or several come back, up to the limit."""
    step = max(1, -(-len(body) // members))
    parts = [body[place : place + step] for place in range(0, len(body), step)] or [b""]
    packed = b"".join(map(gzip.compress, parts))

    if len(body) <= limit:
        assert inflated(packed, "gzip", limit) == body
        assert inflated(zlib.compress(body), "deflate", limit) == body
    else:
        with pytest.raises(ReceiverError, match="at most"):
            inflated(packed, "gzip", limit)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_inflated_or_refused(body: bytes, coding: str) -> None:
    """Any bytes give at most the limit, or our error."""
    with suppress(ReceiverError):
        assert len(inflated(body, coding, 1000)) <= 1000


def test_a_body_of_thousands_of_members_is_refused() -> None:
    """A body of thousands of members is refused. With aiohttp's limit of 1,024 they would cost 256 MB of copies."""
    with pytest.raises(ReceiverError, match="decoded"):
        inflated(gzip.compress(b"") * 10_000, "gzip", 1000)
