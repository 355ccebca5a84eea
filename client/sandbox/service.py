"""The provider behind the sandbox's HTTP: the effect of each call, and its answer. No I/O; the time is an argument.

Everything it remembers has a bound: the newest 50,000 tasks and contents, and fewer keys and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from client.sandbox.counts import Counts, Stats
from client.sandbox.faults import FaultPlan, FaultPlanner, Faults, FaultsFor, draw_http_fault
from client.sandbox.limits import Accounts, Bans, PollCount, broken_limit
from client.sandbox.requests import RefusalError, TaskRequest, read_task_id, read_task_request
from client.sandbox.settings import HttpFault, SandboxSettings
from client.sandbox.wires.answers import Answer, http_fault_answer, json_answer
from client.sandbox.wires.profiles import expected_solution, profile_named
from client.sandbox.wires.solutions import is_recognition

__all__ = ["Caller", "ReadFields", "Reply", "SandboxTask", "Service"]

ReadFields = Callable[[], Mapping[str, Any]]
"""Reads a request under the names of createTask and getTaskResult; raises `RefusalError`."""
_MOST_TASKS = 50_000
_MOST_REPORTED = 50_000


@dataclass(slots=True, kw_only=True)
class SandboxTask:
    """A task that was made. Its end is decided from the start. Times are those of the clock given to the service."""

    id: str
    type: str
    client_key: str = field(repr=False)
    created_at: float
    finished_at: float
    solution: dict[str, Any] | None = field(repr=False)
    error_code: str | None
    callback_url: str | None = field(repr=False)
    plan: FaultPlan
    is_sync: bool
    polls: int = 0
    polled_at: float | None = None
    is_fetched: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: its address, and the time of the request."""

    address: str
    now: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a call. `made` is a task made by the call; `fetched` is the task of an outcome in the answer."""

    answer: Answer
    made: SandboxTask | None = None
    fetched: SandboxTask | None = None


_Handler = Callable[[Mapping[str, Any], Caller], Reply]


class Service:
    """One provider: its tasks, accounts and limits."""

    def __init__(self, provider: str, settings: SandboxSettings, *, faults_for: FaultsFor | None) -> None:
        self._provider = provider
        self.profile = profile_named(provider)
        self._settings = settings
        self._planner = FaultPlanner(settings, faults_for)
        self._new_id = self.profile.id_maker()
        self._limits = settings.limits or self.profile.limits
        self._accounts = Accounts(keys=settings.client_keys, balance=settings.balance, cost=settings.cost)
        self._tasks: dict[str, SandboxTask] = {}
        self._reported: dict[str, None] = {}
        self._hosts = set(settings.registered_hosts)
        self.wire = self.profile.wire(settings)
        self.counts = Counts()
        self._bans = Bans(self._limits, self.counts.limits_broken)
        self.side_calls: Mapping[str, _Handler] = {
            **{name: partial(self._report, name) for name in self.profile.reports},
            **(self._pingbacks() if self.profile.api == "v1" else {}),
        }
        """Reports and registered hosts (providers/README.md, "Form callbacks"), by the name of the call.

        Source: providers/README.md, "Balance and reports".
        """
        self._handlers: Mapping[str, _Handler] = {
            "createTask": self._create_task,
            "getTaskResult": self._get_task_result,
            "getBalance": self._get_balance,
            **self.side_calls,
        }

    @property
    def window_seconds(self) -> float:
        """The time in which a task can be read."""
        return self._limits.window_seconds

    def stats(self) -> Stats:
        """Return all counts so far."""
        return self.counts.snapshot({task.id: task.polls for task in self._tasks.values()})

    def call(self, name: str, read: ReadFields, caller: Caller) -> Reply:
        """Count a call, check its caller, and answer it. A refusal becomes an answer too."""
        self.counts.calls[name] += 1
        key: object = None
        try:
            self._bans.check_address(name, caller.address, caller.now)
            fields = read()
            key = fields.get("clientKey")
            self._check_key(key, caller.now)
            return self._handlers[name](fields, caller)
        except RefusalError as refusal:
            self.counts.errors[refusal.error_code] += 1
            self._bans.count_error(refusal.error_code, caller.address, key, caller.now)
            return Reply(self.wire.refused(refusal.error_code, refusal.description))

    def unreadable(self, description: str, *, status: int) -> Answer:
        """Return the answer to a request that HTTP itself refuses: wrong path, wrong method, too large."""
        self.counts.errors["ERROR_BAD_REQUEST"] += 1
        return self.wire.refused("ERROR_BAD_REQUEST", description, status=status)

    def other_task_id(self, task: SandboxTask) -> str:
        """Return the id of the newest other task. If there is none, return an id never given out."""
        return next((other for other in reversed(self._tasks) if other != task.id), None) or self._new_id()

    def outcome(self, task: SandboxTask) -> Answer:
        """Return the getTaskResult answer with the outcome."""
        if task.error_code is not None:
            return self.wire.failed(task.id, task.error_code)
        return self.wire.ready(task.id, task.solution or {})

    def _check_key(self, key: object, now: float) -> None:
        if not self._accounts.is_known(key):
            raise RefusalError("ERROR_KEY_DOES_NOT_EXIST")
        self._bans.check_key(str(key), now)

    def _task_of(self, fields: Mapping[str, Any]) -> SandboxTask:
        task = self._tasks.get(read_task_id(fields))
        if task is None or task.client_key != fields["clientKey"]:
            raise RefusalError("ERROR_TASKID_INVALID")
        return task

    def _create_task(self, fields: Mapping[str, Any], caller: Caller) -> Reply:
        key = str(fields["clientKey"])
        self._bans.check_submit(key, caller.now)
        request = read_task_request(fields, self._provider)
        self._check_host(request)
        plan = self._planner.plan(request.task, request.faults)
        fault = plan.choose_for_create_task()
        if fault is not None:
            return self._faulty("createTask", fault)
        if not self._accounts.charge(key):
            raise RefusalError("ERROR_ZERO_BALANCE")
        return self._made(self._new_task(request, plan, key, caller.now))

    def _check_host(self, request: TaskRequest) -> None:
        if request.callback_url is None or not self.profile.has_registered_hosts:
            return
        if urlsplit(request.callback_url).hostname not in self._hosts:
            raise RefusalError("ERROR_INVALID_TASK_DATA", "callbackUrl or pingback: its host is not registered")

    def _new_task(self, request: TaskRequest, plan: FaultPlan, key: str, now: float) -> SandboxTask:
        error_code = plan.faults.error_code if plan.faults.fails else None
        if plan.faults.fails:
            self.counts.faults["task.fails"] += 1
        seconds = plan.latency_seconds
        if seconds > self._limits.task_timeout_seconds:
            seconds, error_code = self._limits.task_timeout_seconds, "ERROR_TASK_TIMEOUT"
        return SandboxTask(
            id=self._new_id(),
            type=request.type,
            client_key=key,
            created_at=now,
            finished_at=now + seconds,
            solution=None if error_code else expected_solution(self._provider, request.task),
            error_code=error_code,
            callback_url=self._callback_url(request),
            plan=plan,
            is_sync=self._is_sync(request, plan.faults),
        )

    def _callback_url(self, request: TaskRequest) -> str | None:
        if self.profile.is_account_wide:
            return self._settings.account_webhook_url
        return request.callback_url if self.profile.has_callback else None

    def _is_sync(self, request: TaskRequest, faults: Faults) -> bool:
        if faults.sync is not None:
            return faults.sync
        if self.profile.sync == "recognition":
            return not self._settings.async_images and is_recognition(request.type)
        return self.profile.sync == "all"

    def _made(self, task: SandboxTask) -> Reply:
        if task.error_code is not None:
            self._accounts.give_back(task.client_key)
            if task.is_sync:
                raise RefusalError(task.error_code)
        self.counts.tasks_made += 1
        self._bans.note_task(task.client_key)
        self._tasks[task.id] = task
        if len(self._tasks) > _MOST_TASKS:
            del self._tasks[next(iter(self._tasks))]
        if task.is_sync:
            return Reply(self.wire.solved_at_once(task.id, task.solution or {}), made=task)
        return Reply(self.wire.created(task.id), made=task)

    def _get_task_result(self, fields: Mapping[str, Any], caller: Caller) -> Reply:
        now = caller.now
        self._bans.check_all_polls(str(fields["clientKey"]), now)
        task = self._task_of(fields)
        poll = PollCount(
            age_seconds=now - task.created_at,
            number=task.polls + 1,
            since_last_seconds=None if task.polled_at is None else now - task.polled_at,
        )
        task.polls, task.polled_at = poll.number, now
        self._check_poll(poll)
        fault = task.plan.choose_for_poll(task.polls)
        if fault is not None:
            return self._faulty("getTaskResult", fault)
        if now < task.finished_at:
            return self._processing(task)
        if task.error_code is not None:
            self.counts.errors[task.error_code] += 1
        return Reply(self.outcome(task), fetched=task)

    def _processing(self, task: SandboxTask) -> Reply:
        code = self.profile.not_ready_code
        if code is None or not task.plan.faults.is_not_ready_an_error:
            return Reply(self.wire.processing(task.id))
        self.counts.faults["getTaskResult.notReady"] += 1
        return Reply(self.wire.refused(code, "not ready"))

    def _check_poll(self, poll: PollCount) -> None:
        broken = broken_limit(self._limits, poll)
        if broken is None:
            return
        self.counts.limits_broken[broken] += 1
        if broken != "interval":
            raise RefusalError("ERROR_TASKID_INVALID")
        if self._limits.is_interval_enforced:
            raise RefusalError("ERROR_RATE_LIMIT")

    def _get_balance(self, fields: Mapping[str, Any], _caller: Caller) -> Reply:
        number = self.counts.calls["getBalance"]
        fault = draw_http_fault(self._settings.rates, seed=self._settings.seed, call="getBalance", key=str(number))
        if fault is not None:
            return self._faulty("getBalance", fault)
        return Reply(self.wire.balance(self._accounts.balance(str(fields["clientKey"]))))

    def _faulty(self, call: str, fault: HttpFault) -> Reply:
        self.counts.faults[f"{call}.{fault}"] += 1
        if fault == "500" and self.profile.has_error_pages:
            return Reply(Answer(502, b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>", "text/html"))
        return Reply(http_fault_answer(fault, self.wire))

    def _report(self, name: str, fields: Mapping[str, Any], caller: Caller) -> Reply:
        task = self._task_of(fields)
        types = self.profile.reports[name]
        if types and not any(part in task.type.lower() for part in types):
            raise RefusalError("ERROR_INVALID_TASK_DATA", f"taskId: {name} is not for tasks of this type")
        is_v1 = self.profile.api == "v1"
        # A report comes after the end of the task, and not too long after it (providers/README.md, "anti-captcha",
        # "2captcha and ruCaptcha").
        if not task.finished_at <= caller.now <= task.finished_at + self._limits.report_seconds:
            raise RefusalError("REPORT_NOT_RECORDED" if is_v1 else "ERROR_TASKID_INVALID")
        if is_v1 and task.id in self._reported:
            raise RefusalError("ERROR_DUPLICATE_REPORT")
        self._reported[task.id] = None
        if len(self._reported) > _MOST_REPORTED:
            del self._reported[next(iter(self._reported))]
        self.counts.reports[name] += 1
        if is_v1:
            return Reply(json_answer({"status": 1, "request": "OK_REPORT_RECORDED"}))
        return Reply(json_answer({"errorId": 0, **self.profile.report_fields}))

    def _pingbacks(self) -> Mapping[str, _Handler]:
        ok = Reply(json_answer({"status": 1, "request": "OK_PINGBACK"}))

        def add(fields: Mapping[str, Any], caller: Caller) -> Reply:
            host = str(fields.get("addr") or "")
            # A request from another address than the host's is refused (providers/README.md, "Form callbacks"). Names
            # are not looked up here, but for that of this machine.
            if host not in (caller.address, "localhost"):
                raise RefusalError("ERROR_IP_ADDRES")
            self._hosts.add(host)
            return ok

        def show(_fields: Mapping[str, Any], _caller: Caller) -> Reply:
            return Reply(json_answer({"status": 1, "request": sorted(self._hosts)}))

        def delete(fields: Mapping[str, Any], _caller: Caller) -> Reply:
            host = str(fields.get("addr") or "")
            self._hosts.difference_update(list(self._hosts) if host == "all" else [host])
            return ok

        return {"add_pingback": add, "get_pingback": show, "del_pingback": delete}
