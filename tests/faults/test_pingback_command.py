"""`callback-receiver pingback`: the allowed hosts at 2captcha and ruCaptcha, against their older API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.errors import BadArgumentError, UnreadableError
from client.provider_api.pingbacks import check_host, hosts_of, older_api, read_pingbacks
from client.providers.readings import Ready
from client.sandbox.serving import serving
from tests.faults.commands import run_command

_KEY = "tests-only-client-key"
_DONE = '{"status":1,"request":"OK_PINGBACK"}'


@asynccontextmanager
async def _provider(answer: str, status: int = 200) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """Yield the address of an older API with a constant answer, and the queries it got."""
    queries: list[dict[str, str]] = []

    async def res(request: web.Request) -> web.Response:
        queries.append(dict(request.query))
        return web.Response(text=answer, status=status)

    app = web.Application()
    app.router.add_get("/res.php", res)
    async with serving(web.AppRunner(app, access_log=None)) as url:
        yield url, queries


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOCAPTCHA_CLIENT_KEY", _KEY)


@pytest.mark.parametrize("answer", [_DONE, "OK", "OK_PINGBACK"])
async def test_add(tmp_path: Path, answer: str) -> None:
    """The host of the public URL is added, in each of the three forms of the provider's answer."""
    async with _provider(answer) as (url, queries):
        ran = await run_command(
            *(tmp_path, "pingback", "add", "--provider", "twocaptcha", "--url", url),
            PUBLIC_URL="https://callbacks.example.com/receiver",
        )

    assert (ran.code, ran.out, ran.err) == (0, "twocaptcha may call callbacks.example.com\n", "")
    assert queries == [{"key": _KEY, "action": "add_pingback", "addr": "callbacks.example.com", "json": "1"}]


@pytest.mark.parametrize("quoted", [_KEY, _KEY.replace("t", r"\u0074"), _KEY.replace("-", "%2D")])
async def test_a_key_that_the_provider_quotes_is_not_printed(tmp_path: Path, quoted: str) -> None:
    """The key is hidden in every spelling of the provider."""
    refusal = f'{{"status":0,"request":"ERROR_WRONG_USER_KEY","error_text":"{quoted} is unknown"}}'
    async with _provider(refusal) as (url, _):
        ran = await run_command(tmp_path, "pingback", "list", "--provider", "twocaptcha", "--url", url)

    assert ran.code == 1
    assert "(the client key) is unknown" in ran.err


@pytest.mark.parametrize("answer", ["OK|a.example.com|192.0.2.7", '{"status":1,"request":"a.example.com|192.0.2.7"}'])
async def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Each host is one line. The address of the older API may come from the environment."""
    async with _provider(answer) as (url, queries):
        monkeypatch.setenv("TWOCAPTCHA_V1_URL", url)
        ran = await run_command(tmp_path, "pingback", "list", "--provider", "twocaptcha")

    assert (ran.code, ran.out, ran.err) == (0, "a.example.com\n192.0.2.7\n", "")
    assert queries == [{"key": _KEY, "action": "get_pingback", "json": "1"}]


@pytest.mark.parametrize(("argument", "address"), [("192.0.2.7", "192.0.2.7"), ("--all", "all")])
async def test_remove(tmp_path: Path, argument: str, address: str) -> None:
    """One host is removed, or all hosts with the option for that."""
    async with _provider(_DONE) as (url, queries):
        ran = await run_command(tmp_path, "pingback", "remove", argument, "--provider", "twocaptcha", "--url", url)

    assert (ran.code, ran.err) == (0, "")
    assert queries == [{"key": _KEY, "action": "del_pingback", "addr": address, "json": "1"}]


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        ("ERROR_IP_ADDRES", 200, "run this command on the host itself"),
        ('{"status":0,"request":"ERROR_IP_ADDRES"}', 200, "run this command on the host itself"),
        ("ERROR_WRONG_USER_KEY", 200, "check the client key"),
        ("<html>", 502, "HTTP 502 without an answer"),
        ('{"status":1,"request":{"hosts":[]}}', 200, "HTTP 200 without an answer"),
        ("CAPCHA_NOT_READY", 200, "its answer does not say if the call succeeded"),
    ],
)
async def test_refused(tmp_path: Path, answer: str, status: int, expected: str) -> None:
    """The answer of the provider is one line with exit code 1. The key from the query is in no line."""
    async with _provider(answer, status) as (url, _):
        ran = await run_command(tmp_path, "pingback", "add", "a.example", "--provider", "twocaptcha", "--url", url)

    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert expected in ran.err
    assert _KEY not in ran.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["add", "--provider", "twocaptcha"], "RECEIVER_PUBLIC_URL"),
        (["add", "https://a.example/x", "--provider", "twocaptcha"], "without scheme"),
        (["remove", "all", "--provider", "twocaptcha"], "host: expected"),
        (["remove", "a.example", "--all", "--provider", "twocaptcha"], "either a host or --all"),
        (["list", "--provider", "capsolver"], "expected one of twocaptcha, rucaptcha"),
        (["list", "--provider", "rucaptcha"], "RUCAPTCHA_CLIENT_KEY"),
        (["list", "--provider", "twocaptcha", "--url", "2captcha.com"], "--url: expected http"),
    ],
)
async def test_wrong_arguments(tmp_path: Path, arguments: list[str], expected: str) -> None:
    """Each wrong argument gets one line and exit code 2, and nothing is sent."""
    ran = await run_command(tmp_path, "pingback", *arguments)

    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert expected in ran.err


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        ("", ()),
        ("OK", ()),
        ("OK|a.example|", ("a.example",)),
        ("OKAY.example| b.example", ("OKAY.example", "b.example")),
        (["a.example", "::1"], ("a.example", "::1")),
    ],
)
def test_lists(listed: Any, hosts: tuple[str, ...]) -> None:
    """A list is read from text with pipes, and from JSON."""
    reading = read_pingbacks(older_api("rucaptcha"), {"status": 1, "request": listed})

    assert isinstance(reading, Ready)
    assert hosts_of(reading) == hosts


@pytest.mark.parametrize("listed", [7, [7], {"a": "b"}, True])
def test_lists_that_are_none(listed: Any) -> None:
    """Any other text or JSON is no list."""
    with pytest.raises(UnreadableError):
        read_pingbacks(older_api("rucaptcha"), json.loads(json.dumps({"status": 1, "request": listed})))


@pytest.mark.parametrize("host", ["", "ALL", "a b", "a.example:443", "http://a.example", "a.example/x", "a&addr=all"])
def test_hosts_that_are_none(host: str) -> None:
    """A URL is no host, and neither is the word for every host."""
    with pytest.raises(BadArgumentError):
        check_host(host)


@pytest.mark.parametrize("status", [302, 403, 404])
async def test_a_wrong_address_is_told_with_status_and_url(tmp_path: Path, status: int) -> None:
    """The error leaves the query out, because the key is in it."""
    async with _provider("<html>Not here</html>", status) as (url, _):
        ran = await run_command(tmp_path, "pingback", "list", "--provider", "twocaptcha", "--url", url)

    assert ran.code == 1
    assert f"HTTP {status} without an answer of this provider, from {url}/res.php:" in ran.err
    assert _KEY not in ran.err
