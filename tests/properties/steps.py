"""Steps: use cases in plain words, their commands for the store, and a reader's view of a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import from_json

from client.providers import DIALECTS
from client.providers.readings import CallbackReading, Failed, Notice, Pending, Reading, Ready, Refused, TaskId, Unknown
from receiver.domain.deliveries import DeliveryResult, DeliveryRules, HintTask
from receiver.domain.reading import Origin, ReportedAnswer
from receiver.domain.records import SECOND, Outcome, TaskRecord
from receiver.domain.registrations import Bind as BindCommand
from receiver.domain.registrations import Expire as ExpireCommand
from receiver.domain.registrations import Register as RegisterCommand
from receiver.domain.registrations import RegisteredTask, ReportedTask
from receiver.domain.registrations import Report as ReportCommand
from receiver.domain.transaction import Command, Operation
from receiver.domain.transaction import Forget as ForgetCommand
from receiver.domain.transaction import Prune as PruneCommand
from receiver.domain.verdicts import UnreadVerdict
from tests.receiver.storage.stores import RULES, a_ref, a_task, delivery_to_standing, delivery_to_task
from tests.receiver.upkeep.pruning import horizon

__all__ = [
    "UNKNOWN_FINAL_AFTER",
    "Bind",
    "Deliver",
    "DeliverStanding",
    "Expire",
    "Forget",
    "Hint",
    "Prune",
    "Register",
    "Report",
    "Says",
    "Step",
    "answer_view",
    "command_of",
    "outcome_view",
    "task_view",
]

UNKNOWN_FINAL_AFTER = 50 * SECOND

Says = tuple[str, str]
"""The content of an answer: ("ready", solution) or ("failed" | "refused" | "unknown", code).

"pending", "unreadable" and "notice" come with an empty text."""


@dataclass(frozen=True)
class Register:
    """Registers `ref`, or finds the task with this id. `says` is a report after the fact."""

    ref: str
    provider: str
    id: TaskId | None
    says: Says | None
    tags: tuple[str, ...]
    key: tuple[str, bytes] | None
    deadline: int


@dataclass(frozen=True)
class Bind:
    """Binds the createTask id."""

    ref: str
    id: TaskId


@dataclass(frozen=True)
class Deliver:
    """A delivery on the URL of the task."""

    ref: str
    provider: str
    id: TaskId | None
    says: Says


@dataclass(frozen=True)
class DeliverStanding(Deliver):
    """A delivery on the standing URL of the provider. A task made by it gets `ref`."""


@dataclass(frozen=True)
class Report:
    """A client's report."""

    ref: str
    id: TaskId | None
    source: str
    says: Says


@dataclass(frozen=True)
class Expire:
    """Ends all overdue tasks."""


@dataclass(frozen=True)
class Forget:
    """Deletes the task."""

    ref: str


@dataclass(frozen=True)
class Hint:
    """A request for the task could not be read."""

    ref: str


@dataclass(frozen=True)
class Prune:
    """One step of retention: the oldest places of the log, up to a position or up to an age."""

    until: int
    seconds: int
    limit: int


Step = Register | Bind | Deliver | DeliverStanding | Report | Expire | Forget | Hint | Prune


def command_of(step: Step, now: int) -> Command[Any] | Operation[Any]:
    """Return the store's command for this step."""
    match step:
        case Register():
            return _register(step, now)
        case Bind():
            return BindCommand(ref=step.ref, task_id=step.id, now=now)
        case DeliverStanding():
            url_id = a_ref(1000 + len(step.provider))
            return delivery_to_standing(url_id, _callback_reading(step), ref=step.ref, at=now, rules=_rules(step))
        case Deliver():
            return delivery_to_task(step.ref, _callback_reading(step), at=now, rules=_rules(step))
        case Report():
            answer = _answer(step.says, step.source, now)
            return ReportCommand(ref=step.ref, task_id=step.id, answer=answer, now=now)
        case Expire():
            return ExpireCommand(now=now, limit=1000)
        case Forget():
            return ForgetCommand(ref=step.ref, now=now)
        case Prune():
            old = now - step.seconds * SECOND
            taken = horizon(now=now, results=old)
            return PruneCommand(horizon=taken, until=step.until, limit=step.limit)
        case Hint():
            return HintTask(ref=step.ref, now=now)


def answer_view(answer: object) -> tuple[Any, ...]:
    """Return an answer of the store in the form of the model's answers."""
    match answer:
        case RegisteredTask():
            return answer.is_new, task_view(answer.task)
        case TaskRecord():
            return "bound", task_view(answer)
        case DeliveryResult() | ReportedTask():
            return answer.verdict, None if answer.task is None else task_view(answer.task)
        case _:
            return (answer, None)


def task_view(task: TaskRecord) -> tuple[Any, ...]:
    """Return the model's view of a task."""
    return (
        *(task.ref, task.provider, task.tags, task.task_id, task.bound_by, task.open_to_standing, task.is_disputed),
        *(task.hinted_at is not None, task.next_poll_at, task.deliveries, task.position, outcome_view(task.outcome)),
    )


def outcome_view(outcome: Outcome | None) -> tuple[Any, ...] | None:
    """Return status, solution or code, source, and the place of the superseded outcome."""
    if outcome is None:
        return None
    text = outcome.error_code if outcome.solution is None else from_json(outcome.solution)["text"]
    return outcome.status, text, outcome.source, outcome.supersedes


def _register(step: Register, now: int) -> RegisterCommand:
    is_attached = step.id is not None
    task = a_task(
        step.ref,
        provider=step.provider,
        tags=step.tags,
        task_id=step.id,
        bound_by="create" if is_attached else None,
        has_url=not is_attached,
        open_to_standing=is_attached,
        created_at=now,
        next_poll_at=now,
        deadline_at=step.deadline,
    )
    answer = None if step.says is None else _answer(step.says, "poll", now)
    return RegisterCommand(task=task, answer=answer, idempotency=step.key)


def _answer(says: Says, source: str, now: int) -> ReportedAnswer:
    return ReportedAnswer(
        reading=_reading(says),
        origin=Origin(source, "reported", now),
        polls=None,
        reported_at=now,
        unknown_final_after=UNKNOWN_FINAL_AFTER,
        size=0,
    )


def _rules(step: Deliver) -> DeliveryRules:
    return replace(RULES, dialect=DIALECTS[step.provider])


def _callback_reading(step: Deliver) -> CallbackReading | UnreadVerdict:
    if step.says[0] == "unreadable":
        return "unreadable"
    meaning = Notice("balance.low") if step.says[0] == "notice" else _reading_of_a_task(step.says)
    return CallbackReading(step.id, meaning)


def _reading_of_a_task(says: Says) -> Ready | Failed | Pending:
    readings: dict[str, Ready | Failed] = {"ready": Ready({"text": says[1]}), "failed": Failed(1, says[1])}
    return readings.get(says[0], Pending("processing"))


def _reading(says: Says) -> Reading:
    readings: dict[str, Reading] = {"refused": Refused(1, says[1]), "unknown": Unknown(1, says[1])}
    return readings.get(says[0], _reading_of_a_task(says))
