"""Deliveries for the property tests and the fuzzer: bytes at random, and real ones with changes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

from hypothesis import strategies as st

from client.errors import UnreadableError
from client.providers import DIALECTS, Dialect
from client.providers.readings import Bare, CallbackReading, Failed, Notice, Pending, Ready
from client.providers.values import parse_json
from tests.client.providers.strategies import json_values
from tests.client.providers.wire_facts import CALLBACKS, Delivered

__all__ = ["CALLING", "changed", "check_delivery", "enriched"]

CALLING = sorted(name for name, dialect in DIALECTS.items() if dialect.callback is not None)
_KNOWN = (
    *("errorId", "errorCode", "status", "solution", "taskId", "task_id", "id", "code", "captcha_id", "event"),
    *("success", "state", "result", "response", "task_result"),
)
_unknown = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name not in _KNOWN), json_values, max_size=4
)


@st.composite
def changed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a query and a body: noise, or a real delivery with some of its bytes or fields changed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=60)), draw(st.binary(max_size=200))
    real = draw(st.sampled_from(CALLBACKS))
    query, body = real.query, real.body
    if draw(st.booleans()):
        return _cut(draw, query), _cut(draw, body)
    fields = _fields(real)
    for name in draw(st.lists(st.sampled_from(_KNOWN), max_size=3)):
        fields[name] = draw(json_values)
    if draw(st.booleans()):
        return query, json.dumps(fields).encode()
    form = urlencode({name: str(value) for name, value in fields.items()}, errors="replace").encode()
    return draw(st.sampled_from([(form, b""), (b"", form), (form, form)]))


@st.composite
def enriched(draw: st.DrawFn) -> tuple[Delivered, bytes, bytes]:
    """Return a real delivery, and its query and body with its fields in another order and others beside them."""
    real = draw(st.sampled_from(CALLBACKS))
    fields: dict[str, Any] = _fields(real)
    unknown = draw(_unknown)
    if not real.body.startswith(b"{"):
        unknown = {name: str(value).encode("utf-8", "replace").decode() for name, value in unknown.items()}
    pairs = dict(draw(st.permutations([*fields.items(), *unknown.items()])))
    if real.body.startswith(b"{"):
        return real, b"", json.dumps(pairs).encode()
    form = urlencode(pairs, errors="replace").encode()
    return (real, form, b"") if real.query else (real, b"", form)


def check_delivery(dialect: Dialect, query: bytes, body: bytes, task_type: str | None) -> None:
    """Read a delivery: it gives a permitted reading or our error. Any bare answer has a shape or needs a poll."""
    try:
        callback = dialect.read_callback(query=query, body=body)
    except UnreadableError:
        return
    assert isinstance(callback, CallbackReading)
    assert callback.task_id not in (0, "")
    assert isinstance(callback.reading, Ready | Bare | Failed | Pending | Notice)
    if isinstance(callback.reading, Failed):
        assert callback.reading.error_code
        assert 1 <= callback.reading.error_id < 2**31
    if isinstance(callback.reading, Bare):
        code = callback.reading.code
        untyped = dialect.solution_of(code, None)
        solution = dialect.solution_of(code, task_type or "a type")
        if code.startswith("coordinates:"):
            assert untyped in ({"code": code}, solution)
            return
        assert untyped == (parse_json(code.encode()) if dialect.provider == "scrapeless" else {"code": code})
        assert solution is None or set(solution.values()) == {code}


def _fields(real: Delivered) -> dict[str, Any]:
    if real.body.startswith(b"{"):
        fields: dict[str, Any] = json.loads(real.body)
        return fields
    return dict(parse_qsl((real.body or real.query).decode()))


def _cut(draw: st.DrawFn, raw: bytes) -> bytes:
    if not raw:
        return raw
    place = draw(st.integers(0, len(raw) - 1))
    return raw[:place] + draw(st.binary(max_size=3)) + raw[place + draw(st.integers(0, 3)) :]
