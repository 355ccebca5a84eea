"""The store as a plain dict and a list: the rules of outcomes and verdicts, written a second time and without SQL.

`Model.take` answers a step as the store should.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from client.protocol.models import NO_ANSWER, SUBMIT_UNKNOWN
from client.providers.readings import TaskId
from receiver.domain.records import DELIVERIES_KEPT, SECOND, SUBMITTING, Removed
from tests.properties.steps import (
    UNKNOWN_FINAL_AFTER,
    Bind,
    Deliver,
    DeliverStanding,
    Expire,
    Forget,
    Hint,
    Prune,
    Register,
    Report,
    Says,
    Step,
)

__all__ = ["LogEntry", "Model", "ModelTask", "Outcome"]


class Outcome(NamedTuple):
    """The end of a task."""

    status: str
    text: str
    source: str
    supersedes: int | None = None

    @property
    def is_ours(self) -> bool:
        """True if the provider's first outcome replaces it."""
        return self.source == "deadline"


class LogEntry(NamedTuple):
    """One entry of the log, with its time. `ref` is empty if the result was forgotten, or nobody can see it."""

    kind: str
    ref: str
    outcome: Outcome | None
    at: int

    @property
    def is_kept(self) -> bool:
        """True if the store still has it. A hint without its task stays until its turn comes."""
        return bool(self.ref) or self.kind == "hint"


@dataclass
class ModelTask:
    """One task."""

    ref: str
    provider: str
    tags: tuple[str, ...]
    deadline: int
    poll: int | None
    created: int
    id: TaskId | None = None
    bound_by: str | None = None
    bound: int | None = None
    is_open: bool = False
    is_standing: bool = False
    is_disputed: bool = False
    is_hinted: bool = False
    hinted: int = 0
    joined: str | None = None
    outcome: Outcome | None = None
    ended: int = 0
    position: int | None = None
    deliveries: list[tuple[str | None, str]] = field(default_factory=list)

    @property
    def id_text(self) -> str | None:
        """The id in the form used for comparison."""
        return None if self.id is None else str(self.id)

    @property
    def counts_from(self) -> int:
        """The start of the provider's times: createTask's answer, unless it became known late."""
        if self.bound_by != "create" or self.bound is None or self.bound - self.created > SUBMITTING:
            return self.created
        return self.bound

    @property
    def kept(self) -> list[str]:
        """The verdicts of the kept deliveries: the first ones and the newest."""
        return [verdict for _, verdict in [*self.deliveries[:DELIVERIES_KEPT], *self.deliveries[DELIVERIES_KEPT:][-1:]]]

    def seen(self) -> tuple[Any, ...]:
        """Return everything that a reader may see of it."""
        return (
            *(self.ref, self.provider, self.tags, self.id, self.bound_by, self.is_open, self.is_disputed),
            *(self.is_hinted, self.poll, len(self.deliveries), self.position, self.outcome),
        )


class ProblemError(Exception):
    """A problem for the caller."""


class Model:
    """All tasks, and the log of results. Entries up to `floor` were pruned. `all` holds every task ever registered."""

    def __init__(self) -> None:
        self.tasks: dict[str, ModelTask] = {}
        self.all: dict[str, ModelTask] = {}
        self.log: list[LogEntry] = []
        self.floor = 0
        self.now = 0
        self._forgotten_refs: set[str] = set()
        self._forgotten_ids: set[tuple[str, str]] = set()
        self._keys: dict[str, tuple[bytes, str, bool]] = {}

    def take(self, step: Step) -> tuple[Any, ...]:
        """Return the answer: a verdict and the task as it then is, or a problem."""
        steps: dict[type, Any] = {
            Register: self._register,
            Bind: self._bind_step,
            Deliver: self._deliver,
            DeliverStanding: self._deliver_standing,
            Report: self._report,
            Expire: self._expire,
            Forget: self._forget,
            Hint: self._hint_step,
            Prune: self._prune,
        }
        try:
            verdict, task = steps[type(step)](step)
        except ProblemError as problem:
            return ("problem", str(problem))
        self.all |= self.tasks
        return (verdict, None if task is None else task.seen())

    def found(self, ref: str) -> ModelTask | None:
        """Return the task, or the one it was joined to."""
        task = self.tasks.get(ref)
        while task is not None and task.joined is not None:
            task = self.tasks.get(task.joined)
        return task

    def owner(self, provider: str, id_text: str) -> ModelTask | None:
        """Return the task with the id."""
        return next(
            (task for task in self.tasks.values() if (task.provider, task.id_text) == (provider, id_text)), None
        )

    def _existing(self, ref: str) -> ModelTask:
        task = self.found(ref)
        if task is None:
            raise ProblemError("unknown-task")
        return task

    def _register(self, step: Register) -> tuple[bool, ModelTask]:
        if step.key is not None and step.key[0] in self._keys:
            digest, ref, is_new = self._keys[step.key[0]]
            if digest != step.key[1]:
                raise ProblemError("idempotency-key-reused")
            return is_new, self._existing(ref)
        owner = None if step.id is None else self.owner(step.provider, str(step.id))
        task = owner or ModelTask(step.ref, step.provider, step.tags, step.deadline, self.now, self.now)
        if owner is None:
            self.tasks[step.ref] = task
            if step.id is not None:
                task.id, task.bound_by, task.is_open = step.id, "create", True
        if step.key is not None:
            self._keys[step.key[0]] = (step.key[1], task.ref, owner is None)
        if step.says is not None:
            final_after = 0 if owner is None else UNKNOWN_FINAL_AFTER
            self._settle_report(task, "poll", step.says, unknown_final_after=final_after)
        return owner is None, task

    def _bind_step(self, step: Bind) -> tuple[str, ModelTask]:
        task = self._existing(step.ref)
        self._bind(task, step.id)
        return "bound", task

    def _deliver(self, step: Deliver) -> tuple[str, ModelTask | None]:
        task = self.tasks.get(step.ref)
        if task is not None:
            return self._deliver_to(task, step)
        if step.ref in self._forgotten_refs:
            return "forgotten", None
        if step.says[0] not in ("ready", "failed"):
            return {"pending": "notFinal"}.get(step.says[0], step.says[0]), None
        if step.id is not None and self.owner(step.provider, str(step.id)) is not None:
            return "mismatched", None
        return self._make(step, is_standing=False)

    def _deliver_standing(self, step: DeliverStanding) -> tuple[str, ModelTask | None]:
        if step.says[0] == "notice":
            return "notice", None
        if step.says[0] == "unreadable" or step.id is None:
            return "unreadable", None
        task = self.owner(step.provider, str(step.id))
        if task is not None and task.is_open:
            return self._deliver_to(task, step)
        if task is not None:
            self._hint(task)
            task.deliveries.append((str(step.id), "mismatched"))
            return "mismatched", task
        if (step.provider, str(step.id)) in self._forgotten_ids:
            return "forgotten", None
        if step.says[0] not in ("ready", "failed"):
            return "notFinal", None
        return self._make(step, is_standing=True)

    def _report(self, step: Report) -> tuple[str, ModelTask]:
        task = self._existing(step.ref)
        if step.id is not None:
            self._bind(task, step.id)
        return self._settle_report(task, step.source, step.says, unknown_final_after=UNKNOWN_FINAL_AFTER), task

    def _expire(self, _step: Expire) -> tuple[int, None]:
        overdue = [task for task in self.tasks.values() if task.outcome is None and task.deadline <= self.now]
        for task in sorted(overdue, key=lambda task: task.deadline):
            code = SUBMIT_UNKNOWN if task.id is None else NO_ANSWER
            self._publish(task, Outcome("failed", code, "deadline"))
        return len(overdue), None

    def _forget(self, step: Forget) -> tuple[None, None]:
        self._forget_task(self._existing(step.ref))
        return None, None

    def _forget_task(self, task: ModelTask) -> None:
        for joined in [other for other in self.tasks.values() if other.joined == task.ref]:
            self._forget_task(joined)
        self._blank(0, {task.ref})
        self.log.append(LogEntry("deleted", task.ref, None, self.now))
        self._remove(task)

    def _blank(self, after: int, refs: set[str]) -> None:
        """Hide the entries of these tasks behind a position, but for their deletions."""
        self.log = [
            entry._replace(ref="", outcome=None)
            if number > after and entry.ref in refs and entry.kind != "deleted"
            else entry
            for number, entry in enumerate(self.log, start=1)
        ]

    def _prune(self, step: Prune) -> tuple[Removed | None, None]:
        floor = entries = 0
        for number, entry in enumerate(self.log, start=1):
            if number <= self.floor or not entry.is_kept:
                continue
            is_old = number <= step.until or entry.at <= self.now - step.seconds * SECOND
            if entries == step.limit or not is_old:
                break
            floor, entries = number, entries + 1
        if not entries:
            return None, None
        doomed = self._doomed(floor)
        self.floor = floor
        self._blank(floor, doomed)
        for ref in doomed:
            self._remove(self.tasks[ref])
        return Removed(tasks=len(doomed), entries=entries), None

    def _doomed(self, until: int) -> set[str]:
        """Return the tasks ended up to a position, and their joined tasks if they ended by then."""
        reached = {entry.ref for entry in self.log[self.floor : until] if entry.kind == "result"}
        doomed = {
            task.ref
            for task in self.tasks.values()
            if task.ref in reached
            and task.position is not None
            and task.position <= until
            and (task.joined is None or task.joined not in self.tasks)
        }
        while more := {
            task.ref
            for task in self.tasks.values()
            if task.joined in doomed and (task.position or 0) <= until and task.ref not in doomed
        }:
            doomed |= more
        return doomed

    def _remove(self, task: ModelTask) -> None:
        del self.tasks[task.ref]
        self._keys = {key: value for key, value in self._keys.items() if value[1] != task.ref}
        self._forgotten_refs.add(task.ref)
        if task.id is not None:
            self._forgotten_ids.add((task.provider, str(task.id)))

    def _hint_step(self, step: Hint) -> tuple[None, None]:
        task = self.tasks.get(step.ref)
        if task is not None:
            self._hint(task)
        return None, None

    def _deliver_to(self, task: ModelTask, step: Deliver) -> tuple[str, ModelTask]:
        verdict = self._verdict(task, step)
        task.deliveries.append((_id_read(step), verdict))
        if verdict == "accepted":
            self._publish(task, Outcome(*step.says, "callback"))
        return verdict, task

    def _verdict(self, task: ModelTask, step: Deliver) -> str:
        if step.says[0] == "unreadable":
            self._hint(task)
        if step.says[0] in ("unreadable", "notice"):
            return step.says[0]
        if step.id is not None and task.id_text != str(step.id):
            owner = self.owner(task.provider, str(step.id))
            if task.id is not None or (owner is not None and not owner.is_standing):
                self._hint(task)
                return "mismatched"
            if owner is None or step.says[0] != "pending":
                self._give_id(task, owner, step.id, "callback")
        if step.says[0] == "pending":
            return "notFinal"
        return _weigh(task.outcome, Outcome(*step.says, "callback"))

    def _make(self, step: Deliver, *, is_standing: bool) -> tuple[str, ModelTask]:
        task = self.tasks[step.ref] = ModelTask(step.ref, step.provider, (), 0, None, self.now)
        if step.id is not None:
            task.id, task.bound_by, task.bound = step.id, "callback", self.now
        task.is_open = task.is_standing = is_standing
        return self._deliver_to(task, step)

    def _bind(self, task: ModelTask, task_id: TaskId) -> None:
        if task.id_text == str(task_id):
            task.id, task.bound_by = task_id if task.bound_by == "callback" else task.id, "create"
            return
        if task.bound_by == "create":
            raise ProblemError("task-id-mismatch")
        owner = self.owner(task.provider, str(task_id))
        if owner is not None and not owner.is_standing:
            raise ProblemError("task-id-taken")
        wrong, joined = task.id_text, [other for other in self.tasks.values() if other.joined == task.ref]
        wrong_id = task.id
        if wrong is not None:
            task.deliveries = [
                (id_given, "mismatched" if id_given == wrong else verdict) for id_given, verdict in task.deliveries
            ]
            task.is_disputed = task.outcome is not None and task.outcome.source == "callback"
            task.is_hinted = False
            self._hint(task)
        self._give_id(task, owner, task_id, "create")
        for other in joined if wrong is not None else ():
            other.id, other.joined = wrong_id, None

    def _give_id(self, task: ModelTask, owner: ModelTask | None, task_id: TaskId, bound_by: str) -> None:
        task.id, task.bound_by, task.bound = task_id, bound_by, self.now
        if owner is None:
            return
        owner.id, owner.joined = None, task.ref
        task.is_open = True
        if owner.outcome is not None and _weigh(task.outcome, owner.outcome) == "accepted":
            self._publish(task, owner.outcome, owner.ended)

    def _settle_report(self, task: ModelTask, source: str, says: Says, *, unknown_final_after: int) -> str:
        is_final = source == "submit" or (says[0] == "unknown" and self.now >= task.counts_from + unknown_final_after)
        if says[0] in ("refused", "unknown") and is_final:
            says = ("failed", says[1])
        if says[0] not in ("ready", "failed"):
            return "notFinal"
        new = Outcome(*says, source)
        verdict = _weigh(task.outcome, new)
        if verdict == "accepted":
            self._publish(task, new)
        elif task.is_disputed and source == "poll":
            task.is_disputed, task.poll = verdict == "disagreed", None
        return verdict

    def _publish(self, task: ModelTask, outcome: Outcome, ended: int | None = None) -> None:
        task.outcome = outcome._replace(supersedes=task.position)
        task.ended = self.now if ended is None else ended
        self.log.append(LogEntry("result", task.ref, task.outcome, task.ended))
        task.position, task.poll = len(self.log), None

    def _hint(self, task: ModelTask) -> None:
        is_ours = task.outcome is not None and task.outcome.is_ours
        is_settled = task.outcome is not None and not is_ours and not task.is_disputed
        # One before the task ends, and one behind an outcome of ours.
        is_used_up = task.is_hinted and not (is_ours and task.hinted < task.ended)
        if is_used_up or is_settled:
            return
        task.is_hinted, task.hinted, task.poll = True, self.now, self.now
        self.log.append(LogEntry("hint", task.ref, None, self.now))


def _weigh(current: Outcome | None, new: Outcome) -> str:
    if current is None or current.is_ours:
        return "accepted"
    if (current.status, current.text) != (new.status, new.text):
        return "disagreed"
    return "duplicate" if current.source == new.source else "late"


def _id_read(step: Deliver) -> str | None:
    return None if step.id is None or step.says[0] == "unreadable" else str(step.id)
