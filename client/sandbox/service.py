"""The service behind the sandbox's HTTP: what each call does and what it is answered. No I/O; the time is an argument.

Grows up to a bound: of tasks the newest 50,000 are remembered, of contents as many, of keys and addresses fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from client.sandbox.accounts import Accounts
from client.sandbox.answers import expected_solution, is_recognition
from client.sandbox.counts import Counts, Stats
from client.sandbox.fates import Fate, Fates, FaultsFor
from client.sandbox.faults import Faults, HttpFault, draw_http_fault
from client.sandbox.limits import Bans, PollCount, RefusalError, broken_limit, limits_of
from client.sandbox.reading import TaskRequest, read_task_id, read_task_request
from client.sandbox.settings import Settings
from client.sandbox.wires import profile_named
from client.sandbox.wires.capsolver import Answer, http_fault_answer

__all__ = ["Made", "Polled", "Read", "SandboxTask", "Service"]

_Answered = TypeVar("_Answered")
Read = Callable[[], Mapping[str, Any]]
"""Reads what a caller sent, under the names of createTask and getTaskResult; raises `RefusalError`."""
_MOST_TASKS = 50_000


@dataclass(slots=True, kw_only=True)
class SandboxTask:
    """A task that was made; its end is decided from the start. Times are those of the clock given to the service."""

    id: str
    type: str
    client_key: str = field(repr=False)
    created_at: float
    finished_at: float
    solution: dict[str, Any] | None = field(repr=False)
    error_code: str | None
    callback_url: str | None = field(repr=False)
    fate: Fate
    is_sync: bool
    polls: int = 0
    polled_at: float | None = None
    is_fetched: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """createTask made a task: what to answer, and the task whose callback has to be seen to."""

    answer: Answer
    task: SandboxTask


@dataclass(frozen=True, slots=True)
class Polled:
    """getTaskResult: what to answer, and the task if that answer is its outcome."""

    answer: Answer
    fetched: SandboxTask | None = None


class Service:
    """One provider: its tasks, accounts and limits."""

    def __init__(self, provider: str, settings: Settings, *, faults_for: FaultsFor | None) -> None:
        self._provider = provider
        self.profile = profile_named(provider)
        self._settings = settings
        self._fates = Fates(settings, faults_for)
        self._new_id = self.profile.id_maker()
        self._limits = settings.limits or limits_of(provider)
        self._accounts = Accounts(keys=settings.client_keys, balance=settings.balance, cost=settings.cost)
        self._tasks: dict[str, SandboxTask] = {}
        self.wire = self.profile.wire(settings)
        self.counts = Counts()
        self.registered_hosts = set(settings.registered_hosts)
        self._bans = Bans(self._limits, self.counts.limits_broken)

    @property
    def window_seconds(self) -> float:
        """How long a task can be read."""
        return self._limits.window_seconds

    @property
    def report_seconds(self) -> float:
        """How long after its end a task can be reported."""
        return self._limits.report_seconds

    def stats(self) -> Stats:
        """What was counted so far."""
        return self.counts.snapshot({task.id: task.polls for task in self._tasks.values()})

    def create_task(self, read: Read, *, address: str, now: float) -> Made | Answer:
        """Answers createTask; an `Answer` alone means that no task was made."""
        return self._guarded("createTask", self._create_task, read, address, now)

    def get_task_result(self, read: Read, *, address: str, now: float) -> Polled:
        """Answers getTaskResult, and says whether that brought the outcome home."""
        answered = self._guarded("getTaskResult", self._get_task_result, read, address, now)
        return Polled(answered) if isinstance(answered, Answer) else answered

    def get_balance(self, read: Read, *, address: str, now: float) -> Answer:
        """Answers getBalance."""
        return self._guarded("getBalance", self._get_balance, read, address, now)

    def side_call(
        self, call: str, answer: Callable[[Mapping[str, Any], float], Answer], read: Read, *, address: str, now: float
    ) -> Answer:
        """Answers another call with what `answer` makes of its fields, once the caller was checked."""
        return self._guarded(call, answer, read, address, now)

    def task_of(self, fields: Mapping[str, Any]) -> SandboxTask:
        """Return the caller's task that `fields` name.

        Raises:
            RefusalError: there is none.
        """
        task = self._tasks.get(read_task_id(fields))
        if task is None or task.client_key != fields["clientKey"]:
            raise RefusalError("ERROR_TASKID_INVALID")
        return task

    def unreadable(self, description: str, *, status: int) -> Answer:
        """Return the answer to what HTTP itself refuses: wrong path, wrong method, too large."""
        self.counts.errors["ERROR_BAD_REQUEST"] += 1
        return self.wire.refused("ERROR_BAD_REQUEST", description, status=status)

    def other_task_id(self, task: SandboxTask) -> str:
        """Return the id of somebody else's task: the newest other one, or where there is none, one never given out."""
        return next((other for other in reversed(self._tasks) if other != task.id), None) or self._new_id()

    def outcome(self, task: SandboxTask) -> Answer:
        """How getTaskResult tells the outcome."""
        if task.error_code is not None:
            return self.wire.failed(task.id, task.error_code)
        return self.wire.ready(task.id, task.solution or {})

    def _guarded(
        self, call: str, answer: Callable[[Mapping[str, Any], float], _Answered], read: Read, address: str, now: float
    ) -> _Answered | Answer:
        """Count the call, check the caller, and make an answer of a refusal."""
        self.counts.calls[call] += 1
        key: object = None
        try:
            self._bans.check_address(call, address, now)
            fields = read()
            key = fields.get("clientKey")
            self._check_key(key, now)
            return answer(fields, now)
        except RefusalError as refusal:
            self.counts.errors[refusal.error_code] += 1
            self._bans.count_error(refusal.error_code, address, key, now)
            return self.wire.refused(refusal.error_code, refusal.description)

    def _check_key(self, key: object, now: float) -> None:
        if not self._accounts.is_known(key):
            raise RefusalError("ERROR_KEY_DOES_NOT_EXIST")
        self._bans.check_key(str(key), now)

    def _create_task(self, fields: Mapping[str, Any], now: float) -> Answer | Made:
        self._bans.check_submit(str(fields["clientKey"]), now)
        request = read_task_request(fields, self._provider)
        self._check_host(request)
        fate = self._fates.fate_of(request.task, request.faults)
        struck = fate.strike_create_task()
        if struck is not None:
            return self._struck("createTask", struck)
        key = str(fields["clientKey"])
        if not self._accounts.charge(key):
            raise RefusalError("ERROR_ZERO_BALANCE")
        return self._made(self._new_task(request, fate, key, now))

    def _check_host(self, request: TaskRequest) -> None:
        if request.callback_url is None or not self.profile.has_registered_hosts:
            return
        if urlsplit(request.callback_url).hostname not in self.registered_hosts:
            raise RefusalError("ERROR_INVALID_TASK_DATA", "callbackUrl or pingback: its host is not registered")

    def _new_task(self, request: TaskRequest, fate: Fate, key: str, now: float) -> SandboxTask:
        error_code = fate.faults.error_code if fate.faults.fails else None
        if fate.faults.fails:
            self.counts.faults["task.fails"] += 1
        seconds = fate.latency_seconds
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
            fate=fate,
            is_sync=self._is_sync(request, fate.faults),
        )

    def _callback_url(self, request: TaskRequest) -> str | None:
        if self.profile.is_account_wide:
            return self._settings.account_webhook_url
        if request.callback_url is None or not self.profile.has_callback:
            return None
        return request.callback_url

    def _is_sync(self, request: TaskRequest, faults: Faults) -> bool:
        if faults.sync is not None:
            return faults.sync
        if self.profile.sync == "recognition":
            return not self._settings.async_images and is_recognition(request.type)
        return self.profile.sync == "all"

    def _made(self, task: SandboxTask) -> Answer | Made:
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
            return Made(self.wire.solved_at_once(task.id, task.solution or {}), task)
        return Made(self.wire.created(task.id), task)

    def _get_task_result(self, fields: Mapping[str, Any], now: float) -> Answer | Polled:
        self._bans.check_all_polls(str(fields["clientKey"]), now)
        task = self.task_of(fields)
        poll = PollCount(
            age_seconds=now - task.created_at,
            number=task.polls + 1,
            since_last_seconds=None if task.polled_at is None else now - task.polled_at,
        )
        task.polls, task.polled_at = poll.number, now
        self._check_poll(poll)
        struck = task.fate.strike_poll(task.polls)
        if struck is not None:
            return self._struck("getTaskResult", struck)
        if now < task.finished_at:
            return self._processing(task)
        if task.error_code is not None:
            self.counts.errors[task.error_code] += 1
        return Polled(self.outcome(task), task)

    def _processing(self, task: SandboxTask) -> Answer:
        code = self.profile.not_ready_code
        if code is None or not task.fate.faults.is_not_ready_an_error:
            return self.wire.processing(task.id)
        self.counts.faults["getTaskResult.notReady"] += 1
        return self.wire.refused(code, "not ready")

    def _check_poll(self, poll: PollCount) -> None:
        broken = broken_limit(self._limits, poll)
        if broken is None:
            return
        self.counts.limits_broken[broken] += 1
        if broken != "interval":
            raise RefusalError("ERROR_TASKID_INVALID")
        if self._limits.is_interval_enforced:
            raise RefusalError("ERROR_RATE_LIMIT")

    def _get_balance(self, fields: Mapping[str, Any], now: float) -> Answer:
        del now
        number = self.counts.calls["getBalance"]
        struck = draw_http_fault(self._settings.rates, seed=self._settings.seed, call="getBalance", key=str(number))
        if struck is not None:
            return self._struck("getBalance", struck)
        return self.wire.balance(self._accounts.balance(str(fields["clientKey"])))

    def _struck(self, call: str, fault: HttpFault) -> Answer:
        self.counts.faults[f"{call}.{fault}"] += 1
        if fault == "500" and self.profile.has_error_pages:
            return Answer(502, b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>", "text/html")
        return http_fault_answer(fault, self.wire)
