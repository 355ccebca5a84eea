"""Callback URLs as proxies and senders spell them: with slashes too many, and never redirected.

`proxy_pass http://receiver/` below a location without a slash at its end makes `//callback/…` (owntracks/frontend#63),
and some senders end every path with a slash.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from tests.faults.wire import ANSWER, request, wired
from tests.flows.test_mounted import Mounted, mounted_at
from tests.support import RunningReceiver, running_receiver

SPELLINGS = [
    "//callback/{rest}",
    "////callback/{rest}",
    "/callback/{rest}/",
    "/callback/{rest}//",
    "/callback//{rest}",
    "//callback//{split}//",
]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver of its own."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


@pytest.fixture
async def mounted(tmp_path: Path) -> AsyncIterator[Mounted]:
    """Yield a receiver below /receiver."""
    async with mounted_at(tmp_path / "receiver.db") as running:
        yield running


def spelt(spelling: str, callback_url: str) -> str:
    """Return the path of the URL, in another spelling."""
    rest = callback_url.partition("/callback/")[2]
    return spelling.format(rest=rest, split=rest.replace("/", "//"))


async def posted(url: str, *paths: str, method: str = "POST", body: bytes = ANSWER) -> list[int]:
    """Return the statuses of a request to each path, on one connection."""
    async with wired(url) as wire:
        for path in paths:
            # Built by hand, because `request` parses the URL.
            head = request(method, "http://receiver/", body).replace(b" / ", f" {path} ".encode(), 1)
            await wire.send(head)
        return [(await wire.response()).status for _ in paths]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_slashes_too_many_are_passed_over(
    api: RunningReceiver, spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is stored, a GET is answered as usual, and a bad token is refused. No log line shows the path."""
    task = await api.register()
    path = spelt(spelling, task["callbackUrl"])
    token = task["callbackUrl"].rpartition("/")[2]

    with capture_logs() as lines, caplog.at_level(logging.INFO):
        statuses = await posted(api.url, path, f"{path}?id=1", spelt(spelling, "/callback/capsolver/no-token"))
        asked = await posted(api.url, path, method="GET", body=b"")
        by_another_method = await posted(api.url, path, method="PUT")

    assert (statuses, asked, by_another_method) == ([200, 200, 404], [204], [405])
    assert (await api.task(task["ref"]))["solution"] == {"text": "44795sds"}
    assert [line["event"] for line in lines if line["event"] != "request.completed"] == [
        *("callback.stored", "callback.stored", "callback.refused")
    ]
    assert token not in caplog.text + str(lines)


async def test_what_is_no_slash_is_no_separator(api: RunningReceiver) -> None:
    """An encoded slash, a segment more or less, and extra slashes in other routes lead to 404."""
    url = (await api.register())["callbackUrl"]
    rest = url.partition("/callback/")[2]

    statuses = await posted(
        api.url,
        *(f"/callback%2F{rest.replace('/', '%2F')}", f"/callback/{rest.replace('/', '%2F')}"),
        *(f"/callback/{rest}/more", f"/x/callback/{rest}", "/callback/capsolver/", "/callback//", "//v1/tasks"),
    )

    assert statuses == [404] * 7


@pytest.mark.parametrize(("slashes", "status"), [(64, 200), (65, 404), (7000, 404)])
async def test_slashes_have_a_limit(api: RunningReceiver, slashes: int, status: int) -> None:
    """A path of 64 slashes is routed, a longer one is 404 with a log line. Slashes in a query don't count."""
    path = urlsplit((await api.register())["callbackUrl"]).path
    before = "/" * (slashes - path.count("/"))

    with capture_logs() as lines:
        statuses = await posted(api.url, f"{before}{path}?{'/' * 100}")

    assert statuses == [status]
    assert (status == 404) == ([line["event"] for line in lines] == ["request.completed"])


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "http://xn--a/healthz"),
        ("POST", f"http://{'xn--' * 1700}/"),
        ("CONNECT", "xn--a:443"),
    ],
)
async def test_a_target_with_a_wrong_host_is_answered(api: RunningReceiver, method: str, target: str) -> None:
    """It is 404, and a connection with such a request serves the next one."""
    statuses = await posted(api.url, target, method=method, body=b"")
    next_ones = await posted(api.url, "http://xn--a/", "/healthz", method="GET", body=b"")

    assert (statuses, next_ones) == ([404], [404, 200])


@pytest.mark.parametrize("prefix", ["/receiver", "//receiver", "/receiver/", "//receiver//"])
@pytest.mark.parametrize("spelling", ["/callback/{rest}", *SPELLINGS])
async def test_below_a_prefix_as_well(mounted: Mounted, prefix: str, spelling: str) -> None:
    """In another application, slashes before and after the prefix are ignored too."""
    task = await mounted.register()
    assert task.callback_url is not None
    path = prefix + spelt(spelling, task.callback_url)

    statuses = await posted(mounted.url, path, prefix + spelt(spelling, "/callback/capsolver/no-token"))
    asked = await posted(mounted.url, path, method="GET", body=b"")

    assert (statuses, asked) == ([200, 404], [204])
    assert (await mounted.receiver.task(task.ref)).solution == {"text": "44795sds"}
