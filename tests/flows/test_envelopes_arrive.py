"""Signatures, account events and reports of the sandbox, against our receiver and our dialects.

Each side was written from providers/README.md on its own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from client import TaskClient
from client.providers import DIALECTS
from client.providers.dialect import Call
from client.providers.readings import Pending
from client.sandbox import Sandbox, SandboxSettings, expected_solution
from receiver.app import new_ref
from receiver.domain.tokens import Kind, make_token
from tests.client.sandbox.support import KEY, TOKEN, create_task, ordered
from tests.support import ADMIN, running_receiver

SIGNING_KEY = "tests-only-signing-key-0123456789abcdef"
SECRET = "tests-only-secret-of-the-account"
NOW = SandboxSettings(latency_seconds=(0.0, 0.0), async_images=True)
TASKS = {
    "ImageToTextTask": {"type": "ImageToTextTask", "body": "iVBORw0KGgo="},
    "RecaptchaV2TaskProxyless": {"type": "RecaptchaV2TaskProxyless", "websiteURL": "https://a.b", "websiteKey": "6Le"},
    "HCaptchaTaskProxyless": {"type": "HCaptchaTaskProxyless", "websiteURL": "https://a.b", "websiteKey": "6Le"},
}
REPORTS = sorted(
    {
        (name, task_type, is_good)
        for name, dialect in DIALECTS.items()
        for rule in dialect.reports
        for task_type, is_good in [
            (kind, rule.is_good) for kind in TASKS if not rule.types or any(part in kind.lower() for part in rule.types)
        ]
    }
)


class _HastyClock:
    """The time of the loop; a sleep is over at once."""

    def now(self) -> float:
        """Return the time of the event loop in seconds."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Let other tasks of the event loop run."""
        del seconds
        await asyncio.sleep(0)


async def test_hardcaptcha_is_believed_by_its_signature(tmp_path: Path) -> None:
    """A callback signed with the client key is accepted, and marked as signed."""
    async with (
        running_receiver(tmp_path / "receiver.db", callback_secrets={"hardcaptcha": KEY}) as api,
        Sandbox("hardcaptcha", NOW) as sandbox,
    ):
        registered = await api.register(provider="hardcaptcha")
        await create_task(sandbox, TOKEN, callback_url=registered["callbackUrl"])
        await sandbox.sent_callbacks(1)
        task = await api.task(registered["ref"])

    assert (task["status"], task["trust"]) == ("ready", "signed")
    assert task["solution"] == expected_solution("hardcaptcha", TOKEN)


async def test_hardcaptcha_with_another_key_is_refused(tmp_path: Path) -> None:
    """A wrong signature is refused all four times, and the task stays open."""
    async with (
        running_receiver(tmp_path / "receiver.db", callback_secrets={"hardcaptcha": "another key"}) as api,
        Sandbox("hardcaptcha", NOW, clock=_HastyClock()) as sandbox,
    ):
        registered = await api.register(provider="hardcaptcha")
        await create_task(sandbox, TOKEN, callback_url=registered["callbackUrl"])
        statuses = {sent.status for sent in await sandbox.sent_callbacks(4)}
        task = await api.task(registered["ref"])

    assert task["status"] == "processing"
    assert all(status is not None and 400 <= status < 500 for status in statuses)


async def test_capsolution_tells_the_account(tmp_path: Path) -> None:
    """Events arrive at a standing URL: a task with its id, and a low balance without one."""
    token = make_token(Kind.STANDING, new_ref(), "capsolution", SIGNING_KEY.encode())
    secrets = {"capsolution": SECRET}
    async with running_receiver(tmp_path / "receiver.db", callback_secrets=secrets, signing_keys=SIGNING_KEY) as api:
        settings = SandboxSettings(
            latency_seconds=(0.0, 0.0),
            account_webhook_url=f"{api.url}/callback/capsolution/{token}",
            webhook_secret=SECRET.encode(),
        )
        async with Sandbox("capsolution", settings) as sandbox:
            asked = ordered(TOKEN, isBalanceLow=True)
            task_id = (await create_task(sandbox, asked)).json["taskId"]
            sent = await sandbox.sent_callbacks(2)
            task = await api.task(task_id)

    assert [response.status for response in sent] == [200, 200]
    assert (task["status"], task["solution"]) == ("ready", expected_solution("capsolution", asked))


async def test_a_task_of_capsolution_is_ended_by_the_event_of_the_account(tmp_path: Path) -> None:
    """The standing URL may end a task without a callback URL in createTask. It is polled as if no callback came."""
    token = make_token(Kind.STANDING, new_ref(), "capsolution", SIGNING_KEY.encode())
    secrets = {"capsolution": SECRET}
    async with running_receiver(tmp_path / "receiver.db", callback_secrets=secrets, signing_keys=SIGNING_KEY) as api:
        settings = SandboxSettings(
            latency_seconds=(0.2, 0.2),
            account_webhook_url=f"{api.url}/callback/capsolution/{token}",
            webhook_secret=SECRET.encode(),
        )
        async with (
            Sandbox("capsolution", settings) as sandbox,
            TaskClient(
                "capsolution",
                client_key=KEY,
                provider_url=sandbox.url,
                receiver_url=api.url,
                receiver_key=ADMIN,
            ) as tasks,
        ):
            async with asyncio.timeout(30):
                submitted = await tasks.submit(TOKEN)
                result = await submitted.result()
            stats = sandbox.stats

    facts = next(step.facts for step in submitted.timeline() if step.happened == "task.submitted")
    assert facts["hasCallback"] is False
    plan = DIALECTS["capsolution"].polls
    assert result.solution == expected_solution("capsolution", TOKEN)
    assert (result.source, result.trust, stats.get_task_result_calls) == ("callback", "signed", 0)
    assert result.poll_after is not None
    # It counts from createTask's answer.
    assert plan.first_after_seconds <= (result.poll_after - result.created_at).total_seconds() < 8.0


@pytest.mark.parametrize(("provider", "task_type", "is_good"), REPORTS)
async def test_our_reports_are_taken(provider: str, task_type: str, is_good: bool) -> None:
    """The sandbox counts every report of a dialect."""
    dialect = DIALECTS[provider]
    task = {**TASKS[task_type], "type": "hcaptcha"} if provider.endswith("v1") else TASKS[task_type]
    async with Sandbox(provider, NOW) as sandbox, aiohttp.ClientSession(sandbox.url) as session:
        created = dialect.read_create_task(dialect.parse_answer(await _ask(session, dialect.create_task(KEY, task))))
        assert created.task_id is not None
        answer = await _ask(session, dialect.report(KEY, created.task_id, task_type, is_good=is_good))
        stats = sandbox.stats

    assert isinstance(dialect.read_report(dialect.parse_answer(answer)), Pending)
    assert sum(stats.reports.values()) == 1


async def _ask(session: aiohttp.ClientSession, call: Call) -> bytes:
    async with session.request(
        call.method, call.path, params=call.query, headers=call.headers, data=call.body
    ) as response:
        return await response.read()
