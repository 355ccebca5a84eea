"""Hostile bodies by name: deep and huge JSON, wrong encodings, wrong compressions, wrong types."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping

from tests.faults.wire import ANSWER

__all__ = ["DEEP", "HUGE", "bodies"]

_LEVELS = 100_000
_DIGITS = 1_000_000
_KEYS = 100_000

DEEP: dict[str, bytes] = {
    "deep arrays": b"[" * _LEVELS + b"]" * _LEVELS,
    "deep objects": b'{"a":' * _LEVELS + b"1" + b"}" * _LEVELS,
    "deep arrays without an end": b"[" * _LEVELS,
    "a deep solution": b'{"errorId":0,"status":"ready","solution":' + b"[" * _LEVELS + b"]" * _LEVELS + b"}",
    "a deep list of tasks": b'{"provider":"capsolver","metadata":' + b'{"a":[' * 9_000 + b"]}" * 9_000 + b"}",
}
"""JSON with 100,000 levels."""

HUGE: dict[str, bytes] = {
    "a number of a million digits": b'{"errorId":' + b"9" * _DIGITS + b"}",
    "a fraction of a million digits": b'{"errorId":0.' + b"9" * _DIGITS + b"}",
    "an exponent of a million digits": b'{"errorId":1e' + b"9" * _DIGITS + b"}",
    "a taskId of a million digits": b'{"errorId":0,"status":"ready","solution":{},"taskId":' + b"7" * _DIGITS + b"}",
    "a taskId of 4,301 digits": b'{"errorId":0,"status":"ready","solution":{},"taskId":' + b"7" * 4301 + b"}",
    "100,000 keys": b"{" + b",".join(b'"%d":1' % number for number in range(_KEYS)) + b"}",
    "the same key 100,000 times": b"{" + b'"errorId":0,' * _KEYS + b'"status":"ready"}',
    "100,000 fields of a form": b"&".join(b"f%d=1" % number for number in range(_KEYS)),
    "100,000 separators of a form": b"&" * _KEYS,
}
"""JSON and forms of some 100 kB to 1 MB with few bytes for each value, or all bytes in one."""


def bodies() -> Iterator[tuple[str, bytes, Mapping[str, str]]]:
    """Yield names, bodies and headers: wrong encodings, wrong compressions, wrong types."""
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "utf-8-sig"):
        yield (
            f"in {encoding}",
            ANSWER.decode().encode(encoding),
            {"Content-Type": f"application/json; charset={encoding}"},
        )
    texts = {
        "overlong UTF-8": b"\xc0\xaf\xe0\x80\xaf\xf0\x80\x80\xaf",
        "half a surrogate pair in UTF-8": b"\xed\xa0\x80",
        "half a surrogate pair, escaped": rb"\ud800",
        "an escaped NUL": rb"\u0000",
        "a NUL": b"\x00",
        "beyond Unicode": b"\xf4\x90\x80\x80",
        "control characters": bytes(range(1, 32)),
        "escape sequences": b"\x1b]0;title\x07\x1b[2J",
        "escapes of an escape": rb"\u001b]0;title\u0007",
    }
    for name, text in texts.items():
        yield f"{name} in a solution", ANSWER.replace(b"44795sds", text), {}
        yield f"{name} in a taskId", ANSWER[:-1] + b', "taskId": "' + text + b'"}', {}
        yield f"{name} as a key", ANSWER[:-1] + b', "' + text + b'": 1}', {}
        yield f"{name} in a provider", b'{"provider": "' + text + b'"}', {}
    for value in (b"NaN", b"-Infinity", b"1e400", b"-0", b"null", b"[]", b'""', b"true", b"{}", b"0"):
        yield f"errorId {value.decode()}", ANSWER.replace(b"0", value, 1), {}
        yield value.decode(), value, {}
    squeezed = gzip.compress(ANSWER)
    for name, coding, body in (
        ("gzip that is none", "gzip", ANSWER),
        ("gzip cut off", "gzip", squeezed[:-4]),
        ("gzip with a wrong sum", "gzip", squeezed[:-8] + bytes(8)),
        ("gzip twice", "gzip, gzip", gzip.compress(squeezed)),
        ("gzip as deflate", "deflate", squeezed),
        ("deflate as gzip", "gzip", zlib.compress(ANSWER)),
        ("ten thousand empty members", "gzip", gzip.compress(b"") * 10_000),
        ("a bomb", "gzip", gzip.compress(bytes(10_000_000))),
        ("br", "br", ANSWER),
        ("zstd", "zstd", b"\x28\xb5\x2f\xfd" + bytes(100)),
        ("an unknown coding", "\x7f;=,,", ANSWER),
        ("a long coding", "x," * 3000, ANSWER),
    ):
        yield name, body, {"Content-Encoding": coding}
    for name in (
        "text/html",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
    ):
        yield f"JSON as {name}", ANSWER, {"Content-Type": name}
        yield f"bytes as {name}", bytes(range(256)) * 20, {"Content-Type": name}
    for kind in (
        "application/json; charset=nonsense",
        "application/json; charset=",
        ";;;",
        "application/json" * 400,
        "\xff",
    ):
        yield f"JSON as {kind[:40]!a}", ANSWER, {"Content-Type": kind}
    yield (
        "multipart",
        b"--x\r\nContent-Disposition: form-data; name=id\r\n\r\n7\r\n" * 1000,
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
