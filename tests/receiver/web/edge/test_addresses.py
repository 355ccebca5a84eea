"""Addresses of clients: the peer's, or what trusted proxies say, however the header is written."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from structlog.testing import capture_logs

from receiver.settings import Settings
from receiver.web.edge.addresses import UNKNOWN, address_of_text, client_address
from tests.support import running_receiver

PROXIES = "127.0.0.1,::1,10.0.0.0/8,2001:db8:ffff::/48"
TRUSTED = Settings(trusted_proxies=PROXIES, _env_file=None).proxies


def request_from(peer: str | None, *forwarded: str, name: str = "X-Forwarded-For") -> web.Request:
    """Return a request from a peer, with one header line for each of `forwarded`."""
    transport = Mock()
    transport.get_extra_info.return_value = None if peer is None else (peer, 4711)
    headers = CIMultiDict((name, value) for value in forwarded)
    return make_mocked_request("GET", "/", headers, transport=transport)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        # Only the last untrusted address was seen by a proxy of ours.
        ("127.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["1.1.1.1, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1,10.1.2.3,10.1.2.4"], "198.51.100.1"),
        ("127.0.0.1", ["10.9.9.9, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        # Several lines are one list.
        ("127.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1", "10.1.2.3"], "198.51.100.1"),
        # Everything is trusted: the one farthest away.
        ("127.0.0.1", ["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
        # IPv6, with and without ports and brackets.
        ("::1", ["2001:db8::7"], "2001:db8::7"),
        ("::1", ["[2001:db8::7]"], "2001:db8::7"),
        ("::1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("::1", ["2001:DB8:0::7, 2001:db8:ffff::1"], "2001:db8::7"),
        ("::1", ["fe80::1%eth0"], "fe80::1"),
        ("::1", ["198.51.100.1:4711"], "198.51.100.1"),
        # IPv4 in IPv6 form is the same address, on both ends.
        ("::ffff:127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        # No address: the last good trusted hop.
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, unknown, 10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", ["198.51.100.1,,10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", ["198.51.100.1,"], "127.0.0.1"),
        ("127.0.0.1", ["[2001:db8::7"], "127.0.0.1"),
        ("127.0.0.1", ["[2001:db8::7]x"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1:http"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.01"], "127.0.0.1"),
        ("127.0.0.1", ["١٩٨.51.100.1"], "127.0.0.1"),
        ("127.0.0.1", ["1" * 10_000], "127.0.0.1"),
        (None, ["198.51.100.1"], UNKNOWN),
    ],
)
def test_hops_are_counted_from_the_right(peer: str | None, forwarded: Sequence[str], expected: str) -> None:
    """The client is the first untrusted address from the right."""
    assert client_address(request_from(peer, *forwarded), TRUSTED) == expected


@pytest.mark.parametrize("name", ["Forwarded", "CF-Connecting-IP", "X-Real-IP", "True-Client-IP", "X-Client-IP"])
def test_other_headers_are_not_believed(name: str) -> None:
    """A trusted proxy passes these on as the client wrote them."""
    value = "for=198.51.100.1" if name == "Forwarded" else "198.51.100.1"

    assert client_address(request_from("127.0.0.1", value, name=name), TRUSTED) == "127.0.0.1"


def test_a_long_list_of_trusted_hops_ends() -> None:
    """A forged list of proxies costs little, and its left end isn't reached."""
    forwarded = ", ".join(["198.51.100.1", *["10.0.0.1"] * 5000])

    assert client_address(request_from("127.0.0.1", forwarded), TRUSTED) == "10.0.0.1"


@given(st.ip_addresses(), st.integers(0, 65535))
def test_each_spelling_of_an_address_is_read(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    """Ports and brackets change nothing."""
    plain = address_of_text(str(address))
    bracketed = address_of_text(f"[{address}]")
    with_port = address_of_text(f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}")

    assert plain == bracketed == with_port
    assert str(plain) == str(getattr(address, "ipv4_mapped", None) or address)


@given(st.text(max_size=100))
def test_any_text_is_an_address_or_none(text: str) -> None:
    """Nothing that a client writes raises an error."""
    address = address_of_text(text)

    assert address is None or ipaddress.ip_address(str(address)) == address


@pytest.mark.parametrize(
    "value", ["proxy.internal", "10.0.0.1/8", "0.0.0.0/0", "::/0", "10.0.0.0/33", "::ffff:10.0.0.1", "127.0.0.1 ::1"]
)
def test_a_wrong_list_is_refused(value: str) -> None:
    """The text says what was expected."""
    with pytest.raises(ValueError, match=r"expected .*got"):
        Settings(trusted_proxies=f"127.0.0.1,{value}", _env_file=None)


async def test_refusals_name_the_client(tmp_path: Path) -> None:
    """The log line of a refused request has the address, from the header if the peer is trusted."""
    forged = {"X-Forwarded-For": "198.51.100.1"}
    with capture_logs() as logs:
        async with running_receiver(tmp_path / "plain.db") as plain:
            await plain.send("GET", "/v1/tasks/1", key=None, headers=forged)
        async with running_receiver(tmp_path / "proxied.db", trusted_proxies="127.0.0.1") as proxied:
            await proxied.send("POST", "/callback/capsolver/forged", key=None, headers=forged)
            await proxied.send("GET", "/v1/tasks/1", key=None, headers=forged)
            await proxied.send("GET", "/v1/results", headers=forged)
    lines = [line for line in logs if line["event"] in ("callback.refused", "request.completed")]

    assert [(line["status"], line.get("address")) for line in lines] == [
        *((401, "127.0.0.1"), (404, "198.51.100.1"), (401, "198.51.100.1")),
        (200, None),
    ]
