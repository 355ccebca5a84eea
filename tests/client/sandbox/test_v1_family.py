"""in.php and res.php: forms in, text or JSON out, pingbacks by form or by query.

Source: providers/README.md, "Older API", "CaptchaAI".
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from client.sandbox import Sandbox, SandboxLimits, SandboxSettings, expected_solution
from tests.client.sandbox.support import Catcher, Reply, StoppedClock, ask

_TASK: dict[str, Any] = {"type": "userrecaptcha", "googlekey": "6Le", "pageurl": "https://example.com"}
_ALL = ["twocaptchav1", "rucaptchav1", "captchaai"]
_NOW = SandboxSettings(latency_seconds=(0.0, 0.0))


async def _submit(sandbox: Sandbox, *, faults: Any = None, **fields: str) -> Reply:
    more = {} if faults is None else {"sandbox": json.dumps({"latencySeconds": 0, **faults})}
    task = {name: value for name, value in _TASK.items() if name != "type"}
    return await ask(sandbox, "/in.php", form={"key": "k", "method": _TASK["type"], **task, **more, **fields})


@pytest.mark.parametrize("dialect", _ALL)
async def test_plain_text(dialect: str) -> None:
    """Without json=1, an id and an answer stand behind OK and a pipe, and errors by themselves."""
    async with Sandbox(dialect, _NOW) as sandbox:
        submitted = await _submit(sandbox)
        task_id = submitted.body.decode().removeprefix("OK|")
        solved = await ask(sandbox, "/res.php", {"key": "k", "action": "get", "id": task_id})
        unknown = await ask(sandbox, "/res.php", {"key": "k", "action": "get", "id": "1"})
        balance = await ask(sandbox, "/res.php", {"key": "k", "action": "getbalance"})

    assert submitted.body == b"OK|2122988149"
    assert solved.body.decode() == f"OK|{expected_solution(dialect, _TASK)['code']}"
    assert (unknown.status, unknown.body) == (200, b"ERROR_WRONG_CAPTCHA_ID")
    assert float(balance.body) == pytest.approx(999.999)


@pytest.mark.parametrize("dialect", _ALL)
async def test_json(dialect: str) -> None:
    """With json=1 everything is a status and a request; waiting is an error, spelt as it is."""
    async with Sandbox(dialect) as sandbox:
        submitted = await _submit(sandbox, json="1", faults={"latencySeconds": 60})
        waiting = await ask(
            sandbox, "/res.php", {"key": "k", "action": "get", "json": "1", "id": submitted.json["request"]}
        )
        failing = await _submit(sandbox, json="1", faults={"fails": True})
        failed = await ask(
            sandbox, "/res.php", {"key": "k", "action": "get", "json": "1", "id": failing.json["request"]}
        )
        refused = await _submit(sandbox, json="1", key="")

    assert submitted.json == {"status": 1, "request": "2122988149"}
    assert waiting.json == {"status": 0, "request": "CAPCHA_NOT_READY"}
    assert failed.json == {"status": 0, "request": "ERROR_CAPTCHA_UNSOLVABLE"}
    assert refused.json == {"status": 0, "request": "ERROR_KEY_DOES_NOT_EXIST"}


@pytest.mark.parametrize(
    ("dialect", "names"), [("twocaptchav1", ["id", "code", "rate"]), ("captchaai", ["id", "code"])]
)
async def test_pingback(dialect: str, names: list[str]) -> None:
    """A pingback is a form by POST at 2captcha and a query by GET at CaptchaAI.

    Source: providers/README.md, "Form callbacks", "Query callbacks".
    """
    async with Catcher() as catcher, Sandbox(dialect, _NOW) as sandbox:
        submitted = await _submit(sandbox, pingback=catcher.url)
        await sandbox.sent_callbacks(1)

    (caught,) = catcher.caught
    assert caught.method == ("GET" if dialect == "captchaai" else "POST")
    assert list(caught.form) == names
    assert f"OK|{caught.form['id']}" == submitted.body.decode()
    assert caught.form["code"] == expected_solution(dialect, _TASK)["code"]


async def test_pingback_by_get_keeps_one_parameter() -> None:
    """If in.php is asked by GET, only the first parameter of the address survives.

    Source: providers/README.md, "Form callbacks".
    """
    async with Catcher() as catcher, Sandbox("twocaptchav1", _NOW) as sandbox:
        await ask(sandbox, "/in.php", {"key": "k", "method": "hcaptcha", "pingback": catcher.url + "?a=1&b=2"})
        await sandbox.sent_callbacks(1)

    assert catcher.caught[0].query == "a=1"


async def test_only_registered_hosts_are_called_back() -> None:
    """2captcha refuses other hosts; they are registered from their own address, listed and dropped by res.php."""
    settings = SandboxSettings(latency_seconds=(0.0, 0.0), registered_hosts=frozenset())
    async with Catcher() as catcher, Sandbox("twocaptchav1", settings) as sandbox:
        refused = await _submit(sandbox, pingback=catcher.url)
        foreign = await ask(sandbox, "/res.php", {"key": "k", "action": "add_pingback", "addr": "example.com"})
        added = await ask(sandbox, "/res.php", {"key": "k", "action": "add_pingback", "addr": "127.0.0.1", "json": "1"})
        listed = await ask(sandbox, "/res.php", {"key": "k", "action": "get_pingback"})
        taken = await _submit(sandbox, pingback=catcher.url)
        dropped = await ask(sandbox, "/res.php", {"key": "k", "action": "del_pingback", "addr": "all"})
        empty = await ask(sandbox, "/res.php", {"key": "k", "action": "get_pingback"})

    assert (refused.body, taken.body) == (b"ERROR_BAD_PARAMETERS", b"OK|2122988149")
    assert (foreign.body, added.json) == (b"ERROR_IP_ADDRES", {"status": 1, "request": "OK_PINGBACK"})
    assert (listed.body, dropped.body, empty.body) == (b"OK|127.0.0.1", b"OK", b"OK")


async def test_a_file() -> None:
    """A picture sent as a file counts as its base64."""
    async with Sandbox("twocaptchav1", _NOW) as sandbox:
        submitted = await ask(
            sandbox, "/in.php", form={"key": "k", "method": "post", "json": "1", "file": io.BytesIO(b"\x89PNG")}
        )
        solved = await ask(
            sandbox, "/res.php", {"key": "k", "action": "get", "json": "1", "id": submitted.json["request"]}
        )

    task = {"type": "post", "file": "iVBORw=="}
    assert solved.json == {"status": 1, "request": expected_solution("twocaptchav1", task)["code"]}


async def test_error_pages() -> None:
    """CaptchaAI answers with HTML under 502 when it is down (providers/README.md, "CaptchaAI")."""
    async with Sandbox("captchaai") as sandbox:
        down = await _submit(sandbox, faults={"createTask": "500"})

    assert (down.status, down.headers["Content-Type"].startswith("text/html")) == (502, True)


async def test_too_many_submits() -> None:
    """The 61st call of in.php within 3 s is refused, and so are the next ones (providers/README.md, "Older API")."""
    async with Sandbox("twocaptchav1", _NOW, clock=StoppedClock()) as sandbox:
        answers = [(await _submit(sandbox)).body for _ in range(62)]
        broken = sandbox.stats.limits_broken

    assert [answer for answer in answers if not answer.startswith(b"OK|")] == [b"MAX_USER_TURN"] * 2
    assert broken == {"submits": 2}


async def test_too_many_polls_of_all_tasks() -> None:
    """ERROR: 1005 refuses polls beyond a number for each task and a number for all.

    Source: providers/README.md, "Older API".
    """
    limits = SandboxLimits(polls_for_each=1, polls_for_all=1, poll_interval_seconds=0.0)
    async with Sandbox("twocaptchav1", SandboxSettings(latency_seconds=(60.0, 60.0), limits=limits)) as sandbox:
        await _submit(sandbox)
        answers = [
            (await ask(sandbox, "/res.php", {"key": "k", "action": "get", "id": "2122988149"})).body for _ in range(4)
        ]
        broken = sandbox.stats.limits_broken

    assert answers == [b"CAPCHA_NOT_READY"] * 2 + [b"ERROR: 1005"] * 2
    assert broken == {"allPolls": 2}
