"""Hostile requests as bytes, by name, and the check of the answers to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.faults.hostile_bodies import DEEP, HUGE, bodies
from tests.faults.wire import ANSWER, chunked

__all__ = ["Target", "check_received", "heads", "hostile_requests", "paths", "smuggled"]

Target = tuple[str, str, Mapping[str, str]]
"""A method, a path, and the headers that the route needs."""

_PATH_BYTES = 8_000


def paths(callback_path: str) -> Mapping[str, str]:
    """Return request targets: tricks on the way to a route, or long ones with much work for each byte."""
    long = {
        part: part * (_PATH_BYTES // len(part))
        for part in (
            "/",
            "/a",
            "/..",
            "/a/..",
            "/.",
            "/%2f",
            "/%2e%2e",
            "/\\",
            "//",
            "/;",
            "/%00",
            "/%41",
            "/%c3",
            "/{x}",
        )
    }
    return {
        **{f"{part} by the thousand": target for part, target in long.items()},
        **{f"{part} before a callback": f"{target[:7000]}{callback_path}" for part, target in long.items()},
        "a long id": "/v1/tasks/" + "x" * 7000,
        "slashes as an id": "/v1/tasks/" + "/" * 7000,
        "dots": "/v1/../../../../etc/passwd",
        "encoded dots": "/v1/%2e%2e/%2e%2e/etc/passwd",
        "encoded slashes": callback_path.replace("/", "%2F"),
        "encoded twice": callback_path.replace("/", "%252F"),
        "backslashes": callback_path.replace("/", "\\"),
        "a NUL": callback_path + "\x00",
        "an encoded NUL": f"{callback_path}%00",
        "an encoded NUL as an id": "/v1/tasks/a%00b",
        "an encoded new line": f"{callback_path}%0d%0aX: 1",
        "half a surrogate pair": "/v1/tasks/%ed%a0%80",
        "no UTF-8": "/v1/tasks/%ff%fe",
        "raw bytes": "/v1/tasks/\xff\xfe",
        "wrong escapes": "/v1/tasks/%zz%1",
        "a NUL in a query": "/v1/tasks?provider=%00&tag=%00",
        "a query of ampersands": "/v1/results?" + "&" * 7000,
        "a query of names": "/v1/results?tasks=" + "a," * 3500,
        "a query of tags": "/v1/results?tags=" + "," * 7000,
        "a query of digits": "/v1/tasks?limit=" + "9" * 7000,
        "a query of waits": "/v1/tasks/x?wait=" + "9" * 7000,
        "a cursor": "/v1/results?after=" + "%ff" * 2000,
        "a page": "/v1/tasks?page=" + "e30" * 2000,
        "question marks": "/" + "?" * 7000,
        "fragments": "/" + "#" * 7000,
        "an absolute target": f"http://receiver{callback_path}",
        "an absolute target of slashes": "http://receiver" + "/" * 7000,
        "a host that is no IDNA": "http://xn--a/healthz",
        "a host of IDNA prefixes": f"http://{'xn--' * 1700}/healthz",
        "a host without an end": "http://[::1/healthz",
        "a host of dots": f"http://{'.' * 7000}/",
        "a host of at signs": f"http://{'@' * 7000}/",
        "a port out of range": "http://receiver:99999/healthz",
        "a port that is no number": "http://receiver:port/healthz",
        "another scheme": "file:///etc/passwd",
        "a script": "javascript:alert(1)",
        "no slash": "healthz",
        "a star": "*",
        "nothing": "",
        "a colon": ":",
        "a host alone": "receiver:443",
        "a host and a wrong port": "receiver:99999",
        "a network path": "//receiver:99999/healthz",
    }


def heads(path: str) -> Mapping[str, bytes]:
    """Return heads of requests: floods of headers, wrong bytes in them, and other protocols."""
    start = f"POST {path} HTTP/1.1\r\nHost: receiver\r\n".encode()
    end = b"\r\n"
    long_values = (
        "Authorization: Bearer ",
        "Cookie: ",
        "Prefer: wait=",
        "Idempotency-Key: ",
        "Origin: http://",
        "X-Forwarded-For: ",
        "Forwarded: for=",
        "Sec-WebSocket-Protocol: ",
        "Last-Event-ID: ",
        "traceparent: 00-",
        "Accept-Encoding: ",
        "Range: bytes=",
    )
    return {
        "10,000 headers": start + b"".join(b"X-%d: y\r\n" % number for number in range(10_000)) + end,
        "10,000 headers of one name": start + b"X: y\r\n" * 10_000 + end,
        "a header of 1 MB": start + b"X: " + b"y" * 1_000_000 + b"\r\n" + end,
        "a header name of 1 MB": start + b"X" * 1_000_000 + b": y\r\n" + end,
        "127 headers of 200 bytes": start
        + b"".join(b"X-%d: %s\r\n" % (number, b"y" * 200) for number in range(127))
        + end,
        "folded lines": start + b"X: y\r\n" + b" y\r\n" * 5000 + end,
        "a folded length": start + b"Content-Length:\r\n 5\r\n\r\n12345",
        "a NUL in a value": start + b"X: a\x00b\r\n" + end,
        "a NUL in a name": start + b"X\x00: a\r\n" + end,
        "a return in a value": start + b"X: a\rb\r\n" + end,
        "high bytes": start + b"X-\xff: \xff\xfe\r\nContent-Length: 0\r\n" + end,
        "high bytes in a key": start + b"Authorization: Bearer \xff\xc0\xaf\r\n" + end,
        "a space in a name": start + b"X : a\r\n" + end,
        "no name": start + b": a\r\n" + end,
        "no colon": start + b"abc\r\n" + end,
        "two hosts": start + b"Host: other\r\nContent-Length: 0\r\n" + end,
        "a wrong host": f"POST {path} HTTP/1.1\r\nHost: [::1\r\nContent-Length: 0\r\n\r\n".encode(),
        "a host that is no IDNA": f"POST {path} HTTP/1.1\r\nHost: xn--a:99999\r\nContent-Length: 0\r\n\r\n".encode(),
        "line feeds alone": start.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
        "HTTP/0.9": f"GET {path}\r\n\r\n".encode(),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        "a proxy's line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + start + end,
        "in UTF-16": start.decode().encode("utf-16") + "\r\n".encode("utf-16"),
        "empty lines": b"\r\n" * 20_000,
        "spaces": b" " * 40_000,
        "a method of 20 kB": b"A" * 20_000 + b" / HTTP/1.1\r\n\r\n",
        "CONNECT": b"CONNECT receiver:443 HTTP/1.1\r\nHost: receiver:443\r\n\r\n",
        "CONNECT to a wrong port": b"CONNECT receiver:99999 HTTP/1.1\r\nHost: receiver\r\n\r\n",
        "CONNECT to no IDNA": b"CONNECT xn--a:443 HTTP/1.1\r\nHost: receiver\r\n\r\n",
        "TRACE": f"TRACE {path} HTTP/1.1\r\nHost: receiver\r\nAuthorization: Bearer x\r\n\r\n".encode(),
        "an upgrade to HTTP/2": start
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "a websocket with a wrong version": b"GET /v1/subscribe HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 99\r\nSec-WebSocket-Key: %%%\r\n\r\n",
        "an expectation": start + b"Expect: 100-continue, 200-ok\r\nContent-Length: 5\r\n\r\n12345",
        "a range": start + b"Range: bytes=0-0," + b"1-2," * 1500 + b"\r\nContent-Length: 0\r\n\r\n",
        **{
            f"a long {text.partition(':')[0]}": start + text.encode() + b"9," * 3500 + b"\r\nContent-Length: 0\r\n\r\n"
            for text in long_values
        },
    }


def smuggled(path: str) -> Mapping[str, bytes]:
    """Return shapes of request smuggling: bodies whose end two readers may see at different places."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    chunk = chunked(ANSWER, b"")

    def post(*lines: str, body: bytes = chunk + inner) -> bytes:
        return "\r\n".join([f"POST {path} HTTP/1.1", "Host: receiver", *lines, "", ""]).encode("latin-1") + body

    te, length = "Transfer-Encoding: chunked", f"Content-Length: {len(ANSWER)}"
    return {
        "length and chunks": post(length, te),
        "chunks and length": post(te, "Content-Length: 4"),
        "two lengths": post("Content-Length: 5", "Content-Length: 50"),
        "two equal lengths": post(length, length, body=ANSWER),
        "a list of lengths": post("Content-Length: 5, 5"),
        "a length with a plus": post("Content-Length: +5"),
        "a length with a minus": post("Content-Length: -5"),
        "a hexadecimal length": post("Content-Length: 0x5"),
        "a length with an underscore": post("Content-Length: 1_0"),
        "a length of spaces": post("Content-Length:   "),
        "a length in other digits": post("Content-Length: \xb2\xb3"),
        "a length beyond 64 bits": post("Content-Length: 18446744073709551617"),
        "a length of 1,000 digits": post(f"Content-Length: {'1' * 1000}"),
        "chunked twice": post(te, te),
        "chunked and identity": post("Transfer-Encoding: chunked, identity"),
        "gzip and chunked": post("Transfer-Encoding: gzip, chunked"),
        "chunked with a tab": post("Transfer-Encoding:\tchunked"),
        "chunked with a space before the colon": post("Transfer-Encoding : chunked"),
        "an unknown coding": post("Transfer-Encoding: xchunked"),
        "quoted": post('Transfer-Encoding: "chunked"'),
        "an obscure line": post("X: y\rTransfer-Encoding: chunked"),
        "HTTP/1.0 in chunks": post(te).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        "a chunk beyond 64 bits": post(te, body=b"1ffffffffffffffff\r\n"),
        "a negative chunk": post(te, body=b"-1\r\n"),
        "a chunk with a plus": post(te, body=b"+5\r\n12345\r\n0\r\n\r\n"),
        "a chunk size of zeros": post(te, body=b"0" * 100_000 + b"5\r\n12345\r\n0\r\n\r\n"),
        "a chunk with a long extension": post(te, body=b"5;" + b"x" * 100_000 + b"\r\n12345\r\n0\r\n\r\n"),
        "a chunk with a line feed alone": post(te, body=b"5\n12345\n0\n\n" + inner),
        "a chunk without its line end": post(te, body=b"5\r\n1234567890\r\n0\r\n\r\n"),
        "long trailers": post(te, body=b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
        "a trailer that is framing": post(te, body=b"0\r\nContent-Length: 50\r\n\r\n" + inner),
        "a GET with a body": f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n".encode() + inner,
    }


def hostile_requests(callback_path: str, targets: Mapping[str, Target]) -> Iterator[tuple[str, bytes]]:
    """Yield each request with its name. `callback_path` is that of a valid callback URL."""
    wrong_bodies: list[tuple[str, bytes, Mapping[str, Any]]] = [
        *bodies(),
        *((name, body, {"Content-Type": "application/json"}) for name, body in (DEEP | HUGE).items()),
    ]
    for target_name, (method, path, headers) in targets.items():
        for name, body, more in wrong_bodies:
            yield f"{target_name}: {name}", _request(method, path, body, {**headers, **more})
    for name, path in paths(callback_path).items():
        for method in ("GET", "POST"):
            yield f"{method}: {name}", _request(method, path, ANSWER if method == "POST" else b"", {})
    for name, head in {**heads(callback_path), **smuggled(callback_path)}.items():
        yield f"callback: {name}", head
    for target_name, (_, path, _) in targets.items():
        for name, sent in smuggled(path).items():
            yield f"{target_name}: {name}", sent


_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_ROOT = str(Path(__file__).parent.parent.parent).encode()
_TRACES = (b"Traceback", b'File "', b".py", b"site-packages", b"<module>", b"0x7f", _ROOT)


def check_received(received: bytes) -> list[int]:
    """Return the statuses of the answers in `received`. A failure or a trace of code is an error."""
    statuses = [int(status) for status in _STATUS.findall(received)]
    if any(status >= 500 and status != 503 for status in statuses):
        raise AssertionError(f"a failure of the receiver: {received[:500]!r}")
    for trace in _TRACES:
        if trace in received:
            raise AssertionError(f"{trace!r} in an answer: {received[:2000]!r}")
    return statuses


def _request(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    length = {"Content-Length": str(len(body))} if body else {}
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: receiver",
        *(f"{name}: {value}" for name, value in {**length, **headers}.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
