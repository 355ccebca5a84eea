"""Third-party client libraries against the sandbox: python-anticaptcha, nextcaptcha-python and 2captcha-python.

They are used unchanged, apart from the address. python-anticaptcha takes it as an argument, nextcaptcha-python as an
attribute. 2captcha-python writes https before every address, so its session is made to use http.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import twocaptcha.api
from nextcaptcha import NextCaptchaAPI
from python_anticaptcha import AnticaptchaClient, AnticaptchaException, NoCaptchaTaskProxylessTask
from twocaptcha import TwoCaptcha
from twocaptcha.exceptions.api import ApiException

from client.sandbox import Sandbox, SandboxSettings
from tests.client.sandbox.support import KEY, Catcher

_PAGE = {"websiteURL": "https://example.com", "websiteKey": "6Le"}
_NOW = SandboxSettings(latency_seconds=(0.0, 0.0))


def _plain(url: str) -> str:
    return url.replace("https://127.0.0.1", "http://127.0.0.1", 1)


@pytest.fixture
def over_http(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let 2captcha-python use http on this machine, in a session without a proxy from the environment."""
    with requests.Session() as session:
        session.trust_env = False
        through = SimpleNamespace(
            post=lambda url, **rest: session.post(_plain(url), timeout=10, **rest),
            get=lambda url, **rest: session.get(_plain(url), timeout=10, **rest),
            RequestException=requests.RequestException,
        )
        monkeypatch.setattr(twocaptcha.api, "requests", through)
        yield


def _host(sandbox: Sandbox) -> str:
    return sandbox.url.removeprefix("http://")


def _anticaptcha(host: str) -> tuple[str, float]:
    """Return the token and the balance."""
    with AnticaptchaClient(KEY, host=host, use_ssl=False) as library:
        job = library.create_task(NoCaptchaTaskProxylessTask(_PAGE["websiteURL"], _PAGE["websiteKey"]))
        job.join()
        return job.get_solution_response(), library.get_balance()


async def test_python_anticaptcha() -> None:
    """The library submits, polls, and reads the balance."""
    async with Sandbox("anticaptcha", SandboxSettings(latency_seconds=(0.0, 0.0), balance=2.0, cost=0.5)) as sandbox:
        token, balance = await asyncio.to_thread(_anticaptcha, _host(sandbox))
        stats = sandbox.stats

    assert token.startswith("sandbox_")
    assert balance == 1.5
    assert (stats.tasks_made, stats.limits_broken) == (1, {})


async def test_python_anticaptcha_sees_a_wrong_key() -> None:
    """A wrong key is its error, with anti-captcha's number and code."""
    async with Sandbox("anticaptcha", SandboxSettings(client_keys=frozenset({"another"}))) as sandbox:
        with pytest.raises(AnticaptchaException) as raised:
            await asyncio.to_thread(_anticaptcha, _host(sandbox))

    assert (raised.value.error_id, raised.value.error_code) == (1, "ERROR_KEY_DOES_NOT_EXIST")


async def test_nextcaptcha_python() -> None:
    """It submits and polls, and its callback comes too."""
    async with Catcher() as catcher, Sandbox("nextcaptcha", _NOW) as sandbox:
        library = NextCaptchaAPI(client_key=KEY, callback_url=catcher.url, open_log=False)
        library.api.HOST = sandbox.url
        result = await asyncio.to_thread(library.recaptchav2, _PAGE["websiteURL"], _PAGE["websiteKey"])
        await sandbox.sent_callbacks(1)

    assert (result["errorId"], result["status"]) == (0, "ready")
    assert catcher.caught[0].json["solution"] == result["solution"]


@pytest.mark.usefixtures("over_http")
@pytest.mark.parametrize("dialect", ["twocaptchav1", "rucaptchav1"])
async def test_twocaptcha_python(dialect: str) -> None:
    """The library submits through in.php, polls res.php, reads the balance, and reports."""
    async with Sandbox(dialect, SandboxSettings(latency_seconds=(0.0, 0.0), balance=2.0, cost=0.5)) as sandbox:
        library = TwoCaptcha(KEY, server=_host(sandbox), pollingInterval=1)
        result = await asyncio.to_thread(library.recaptcha, sitekey="6Le", url="https://example.com")
        balance = await asyncio.to_thread(library.balance)
        await asyncio.to_thread(library.report, result["captchaId"], True)
        stats = sandbox.stats

    assert result["code"].startswith("sandbox_")
    assert balance == 1.5
    assert (stats.reports, stats.errors) == ({"reportgood": 1}, {})


@pytest.mark.usefixtures("over_http")
async def test_twocaptcha_python_is_called_back() -> None:
    """A requested callback has the id of res.php (providers/README.md, "Form callbacks")."""
    async with Catcher() as catcher, Sandbox("twocaptchav1", _NOW) as sandbox:
        library = TwoCaptcha(KEY, server=_host(sandbox))
        task_id = await asyncio.to_thread(_send, library, catcher.url)
        await sandbox.sent_callbacks(1)
        code = await asyncio.to_thread(library.get_result, task_id)

    assert catcher.caught[0].form["id"] == task_id
    assert catcher.caught[0].form["code"] == code


@pytest.mark.usefixtures("over_http")
async def test_twocaptcha_python_sees_a_failure() -> None:
    """A wrong key is its ApiException, with the code."""
    async with Sandbox("twocaptchav1", SandboxSettings(client_keys=frozenset({"another"}))) as sandbox:
        library = TwoCaptcha(KEY, server=_host(sandbox))
        with pytest.raises(ApiException, match="ERROR_KEY_DOES_NOT_EXIST"):
            await asyncio.to_thread(_send, library, None)


def _send(library: Any, callback_url: str | None) -> str:
    more = {} if callback_url is None else {"pingback": callback_url}
    return str(library.send(method="userrecaptcha", googlekey="6Le", pageurl="https://example.com", **more))
