"""The limits of the provider, as the sandbox keeps them and counts their breaches."""

from __future__ import annotations

from client.sandbox import Sandbox, SandboxLimits, SandboxSettings
from tests.client.sandbox.support import IMAGE, KEY, NOW, TOKEN, SettableClock, call, create_task, get_task_result


async def test_the_121st_query_finds_no_task() -> None:
    """CapSolver: a task can be asked for 120 times, then its id is not known any more.

    Source: providers/README.md, "CapSolver".
    """
    async with Sandbox("capsolver", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN)
        replies = [await get_task_result(sandbox, created) for _ in range(121)]
        stats = sandbox.stats

    assert replies[119].json["status"] == "ready"
    assert (replies[120].status, replies[120].json["errorCode"]) == (400, "ERROR_TASKID_INVALID")
    assert stats.limits_broken == {"interval": 119, "maxPolls": 1}
    assert stats.polls == {created.json["taskId"]: 121}


async def test_a_result_is_readable_for_five_minutes() -> None:
    """CapSolver: 300 s after its creation the id of a task is not known any more (providers/README.md, "CapSolver")."""
    clock = SettableClock()
    async with Sandbox("capsolver", NOW, clock=clock) as sandbox:
        created = await create_task(sandbox, IMAGE)
        clock.lead_seconds = 295.0
        before = await get_task_result(sandbox, created)
        clock.lead_seconds = 300.5
        after = await get_task_result(sandbox, created)
        stats = sandbox.stats

    assert before.json["status"] == "ready"
    assert after.json["errorCode"] == "ERROR_TASKID_INVALID"
    assert stats.limits_broken == {"window": 1}


async def test_the_unknown_limits_of_onecaptcha_can_be_chosen() -> None:
    """1captcha.vip: how long and how often a result can be read is unknown, and a setting."""
    limits = SandboxLimits(max_polls=1, window_seconds=50.0)
    clock = SettableClock()
    async with Sandbox("onecaptcha", SandboxSettings(limits=limits), clock=clock) as sandbox:
        often, late = await create_task(sandbox, IMAGE), await create_task(sandbox, IMAGE)
        await get_task_result(sandbox, often)
        replies = [await get_task_result(sandbox, often)]
        clock.lead_seconds = 51.0
        replies.append(await get_task_result(sandbox, late))
        stats = sandbox.stats

    assert [reply.json["errorCode"] for reply in replies] == ["ERROR_TASKID_INVALID", "ERROR_TASKID_INVALID"]
    assert stats.limits_broken == {"maxPolls": 1, "window": 1}


async def test_a_task_is_finished_after_its_time() -> None:
    """A task is processing until its time is over, and ready from then on."""
    clock = SettableClock()
    async with Sandbox("onecaptcha", clock=clock) as sandbox:
        created = await create_task(sandbox, {**IMAGE, "sandbox": {"latencySeconds": 60}})
        clock.lead_seconds = 55.0
        before = await get_task_result(sandbox, created)
        clock.lead_seconds = 60.5
        after = await get_task_result(sandbox, created)

    assert [before.json["status"], after.json["status"]] == ["processing", "ready"]


async def test_polls_that_come_too_soon_are_counted_and_answered() -> None:
    """Three seconds between two polls are only advised: a sooner one is answered, and counted."""
    clock = SettableClock()
    async with Sandbox("capsolver", NOW, clock=clock) as sandbox:
        created = await create_task(sandbox, TOKEN)
        await get_task_result(sandbox, created)
        clock.lead_seconds = 3.0
        await get_task_result(sandbox, created)
        soon = await get_task_result(sandbox, created)
        stats = sandbox.stats

    assert soon.json["status"] == "ready"
    assert stats.limits_broken == {"interval": 1}


async def test_polls_that_come_too_soon_can_be_refused() -> None:
    """The advised interval can be enforced, with ERROR_RATE_LIMIT."""
    async with Sandbox("capsolver", SandboxSettings(limits=SandboxLimits(is_interval_enforced=True))) as sandbox:
        created = await create_task(sandbox, TOKEN)
        replies = [await get_task_result(sandbox, created) for _ in range(2)]

    assert replies[1].json["errorCode"] == "ERROR_RATE_LIMIT"


async def test_too_many_errors_block_the_address_for_half_an_hour() -> None:
    """CapSolver: an address with too many errors in a minute is refused for 30 minutes, also with a right key."""
    clock = SettableClock()
    settings = SandboxSettings(limits=SandboxLimits(ban_errors=3), client_keys=frozenset({KEY}))
    async with Sandbox("capsolver", settings, clock=clock) as sandbox:
        wrong = [await call(sandbox, "/getBalance", {"clientKey": "x"}) for _ in range(4)]
        clock.lead_seconds = 1790.0
        blocked = await call(sandbox, "/getBalance", {"clientKey": KEY})
        clock.lead_seconds = 1801.0
        freed = await call(sandbox, "/getBalance", {"clientKey": KEY})
        stats = sandbox.stats

    assert [reply.json["errorCode"] for reply in wrong] == ["ERROR_KEY_DOES_NOT_EXIST"] * 3 + ["ERROR_IP_BANNED"]
    assert (blocked.status, blocked.json["errorCode"], freed.json["errorId"]) == (400, "ERROR_IP_BANNED", 0)
    assert stats.limits_broken == {"ipBanned": 2}
    assert stats.errors == {"ERROR_KEY_DOES_NOT_EXIST": 3, "ERROR_IP_BANNED": 2}


async def test_too_many_errors_can_block_a_key() -> None:
    """A key with too many errors can be blocked too, for 5 minutes, without harm to other keys."""
    clock = SettableClock()
    async with Sandbox("capsolver", SandboxSettings(limits=SandboxLimits(key_block_errors=2)), clock=clock) as sandbox:
        for _ in range(2):
            await call(sandbox, "/getTaskResult", {"clientKey": "a", "taskId": "x"})
        blocked = await call(sandbox, "/getBalance", {"clientKey": "a"})
        other = await call(sandbox, "/getBalance", {"clientKey": "b"})
        clock.lead_seconds = 301.0
        freed = await call(sandbox, "/getBalance", {"clientKey": "a"})

    assert blocked.json["errorCode"] == "ERROR_KEY_TEMP_BLOCKED"
    assert (other.json["errorId"], freed.json["errorId"]) == (0, 0)


async def test_onecaptcha_blocks_nobody() -> None:
    """1captcha.vip: no block is known, so none is there by default."""
    async with Sandbox("onecaptcha") as sandbox:
        replies = [await call(sandbox, "/getBalance") for _ in range(1001)]

    assert {reply.json["errorCode"] for reply in replies} == {"ERROR_BAD_REQUEST"}


async def test_stats_are_served_and_snapshots_stay() -> None:
    """GET /sandbox/stats has the counts under camelCase names. An earlier snapshot does not change."""
    async with Sandbox("capsolver", NOW) as sandbox:
        before = sandbox.stats
        created = await create_task(sandbox, TOKEN)
        await get_task_result(sandbox, created)
        await call(sandbox, "/getBalance", {"clientKey": KEY})
        await call(sandbox, "/createTask")
        served = await call(sandbox, "/sandbox/stats", method="GET")

    assert (before.create_task_calls, before.polls) == (0, {})
    assert served.json == {
        "createTaskCalls": 2,
        "getTaskResultCalls": 1,
        "getBalanceCalls": 1,
        "tasksMade": 1,
        "callbacksSent": 0,
        "callbacksAnswered": 0,
        "callbackAnswers": {},
        "errors": {"ERROR_BAD_REQUEST": 1},
        "limitsBroken": {},
        "faults": {},
        "reports": {},
        "polls": {created.json["taskId"]: 1},
    }
