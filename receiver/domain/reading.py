"""What comes in, as the records and commands of the receiver: callbacks, reported answers, registrations. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic_core import to_json

from client.errors import UnreadableError
from client.protocol.models import FirstOutcome, Registration
from client.providers import Dialect
from client.providers.readings import Bare, CallbackReading, Failed, Ready, TaskId
from receiver.domain.deliveries import Arrival, NewTask
from receiver.domain.outcomes import Origin, make_outcome
from receiver.domain.records import SECOND, Outcome, StoredDelivery, TaskRecord, UnreadableDelivery
from receiver.domain.registrations import Answered
from receiver.domain.tokens import CallbackToken, Kind
from receiver.domain.verdicts import UnreadVerdict
from receiver.errors import ReceiverError

__all__ = [
    "CallbackRequest",
    "read_again",
    "read_answer",
    "read_arrival",
    "read_kept",
    "task_of_registration",
    "times_of_new_task",
]


FirstPoll = Callable[[str | None, bool], float | None]
"""When a task of a type is to be polled first, in seconds; the other argument: whether a callback is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRequest:
    """A callback as it came over HTTP; `query` is raw."""

    method: str
    headers: Mapping[str, str]
    query: bytes
    body: bytes


def read_arrival(
    dialect: Dialect,
    incoming: CallbackRequest,
    token: CallbackToken,
    secret: bytes | None,
    now: int,
    *,
    confirm: str,
    can_poll: bool,
) -> Arrival:
    """The delivery as the dialect reads it. With a `secret`, one that is not signed with it is not read at all."""
    reading, is_signed = _read_callback(dialect, incoming, secret)
    standing_id = str(token.id) if token.kind is Kind.STANDING else None
    trust = "signed" if is_signed else "token" if standing_id is None else "standing"
    return Arrival(
        provider=dialect.provider,
        method=incoming.method,
        content_type=_storable(incoming.headers.get("Content-Type", "")[:200]) or None,
        body=incoming.query if incoming.method == "GET" else incoming.body,
        reading=reading,
        origin=Origin("callback", trust, now, dialect.answer_life_seconds),
        received_at=now,
        standing_id=standing_id,
        solution_of=dialect.solution_of,
        confirm=confirm,
        can_poll=can_poll,
    )


def read_again(dialect: Dialect, kept: UnreadableDelivery, now: int, *, confirm: str, can_poll: bool) -> Arrival:
    """Return a kept delivery as the dialect reads it now, as if it came now; its signature is not known any more.

    Its answer was finished when it came, and not now, so that nobody takes it for fresher than it is.
    """
    delivery = kept.delivery
    trust = "token" if delivery.standing_id is None else "standing"
    return Arrival(
        provider=dialect.provider,
        method=delivery.method,
        content_type=delivery.content_type,
        body=delivery.body or b"",
        reading=_read_body(dialect, delivery),
        origin=Origin("callback", trust, delivery.received_at, dialect.answer_life_seconds),
        received_at=now,
        standing_id=delivery.standing_id,
        solution_of=dialect.solution_of,
        confirm=confirm,
        can_poll=can_poll,
        again=kept,
    )


def read_answer(dialect: Dialect, report: FirstOutcome, now: int) -> tuple[TaskId | None, Answered]:
    """Return the id that a createTask answer gave, and the reported answer as the dialect reads it.

    Raises:
        ReceiverError: `unreadable-answer`.
    """
    task_id = None
    try:
        if report.source == "submit":
            submitted = dialect.read_create_task(report.answer)
            task_id, reading = submitted.task_id, submitted.reading
        else:
            reading = dialect.read_task_result(report.answer)
    except UnreadableError as error:
        raise ReceiverError("unreadable-answer", f"answer: {error}") from None
    finished_at = now if report.finished_at is None else min(now, round(report.finished_at.timestamp() * SECOND))
    grace = dialect.polls.window_seconds + dialect.polls.grace_seconds
    return task_id, Answered(
        reading=reading,
        origin=Origin(report.source, "reported", finished_at, dialect.answer_life_seconds),
        polls=report.polls,
        reported_at=now,
        unknown_final_after=round(grace * SECOND),
        size=len(to_json(report.answer)),
    )


def task_of_registration(
    registration: Registration,
    dialect: Dialect,
    *,
    ref: str,
    owner: str,
    now: int,
    is_reachable: bool,
    is_polled_here: bool = False,
    first_poll: FirstPoll | None = None,
) -> TaskRecord:
    """Return the task that a registration asks for; it gets a URL of its own where the provider can call one back.

    `first_poll` says when it is polled first where the receiver does it.
    """
    is_attached = registration.task_id is not None
    has_url = dialect.callback is not None and is_reachable and not is_attached
    is_account_wide = dialect.callback is not None and dialect.callback.is_account_wide
    plan = dialect.polls
    lasts_seconds = registration.timeout_seconds or plan.window_seconds + plan.grace_seconds
    first_seconds = plan.first_after_callback_seconds if has_url else plan.first_after_seconds
    task_type = registration.type if registration.task is None else str(registration.task["type"])
    if is_polled_here and first_poll is not None:
        first_seconds = first_poll(task_type, has_url or is_attached) or first_seconds
    return TaskRecord(
        row=0,
        ref=ref,
        provider=dialect.provider,
        type=task_type,
        tags=registration.tags,
        metadata=to_json(registration.metadata).decode(),
        created_by=owner,
        client_key_id=registration.client_key_id,
        has_url=has_url,
        open_to_standing=is_attached or is_account_wide,
        standing_id=None,
        task_id=registration.task_id,
        bound_by="create" if is_attached else None,
        bound_at=now if is_attached else None,
        registered_at=0,
        created_at=now,
        poll_after=now + round(first_seconds * SECOND),
        next_poll_at=now + round(first_seconds * SECOND),
        deadline_at=now + round(lasts_seconds * SECOND),
        is_polled_here=is_polled_here,
    )


def times_of_new_task(dialect: Dialect, ref: str, now: int) -> NewTask:
    """Return the times of a task that a delivery makes."""
    plan = dialect.polls
    return NewTask(
        ref=ref,
        poll_after=now + round(plan.first_after_callback_seconds * SECOND),
        deadline_at=now + round((plan.window_seconds + plan.grace_seconds) * SECOND),
    )


def read_kept(dialects: Mapping[str, Dialect], task: TaskRecord, delivery: StoredDelivery) -> Outcome | None:
    """Return the outcome in a kept delivery, whose signature, if it had one, was not asked for."""
    dialect = dialects.get(task.provider)
    if dialect is None or delivery.body is None:
        return None
    reading = _read_body(dialect, delivery)
    if isinstance(reading, str):
        return None
    said = reading.reading
    if isinstance(said, Bare):
        solution = dialect.solution_of(said.code, task.type)
        said = said if solution is None else Ready(solution)
    if not isinstance(said, Ready | Failed):
        return None
    trust = "token" if delivery.standing_id is None else "standing"
    return make_outcome(said, Origin("callback", trust, delivery.received_at, dialect.answer_life_seconds))


def _read_body(dialect: Dialect, delivery: StoredDelivery) -> CallbackReading | UnreadVerdict:
    """Return the reading of kept bytes, or `unreadable`."""
    kept = delivery.body or b""
    query, body = (kept, b"") if delivery.method == "GET" else (b"", kept)
    try:
        return dialect.read_callback(query=query, body=body)
    except UnreadableError:
        return "unreadable"


def _storable(header: str) -> str:
    """Return the header without the bytes that are no UTF-8, which aiohttp lets through and no store takes."""
    return header.encode("utf-8", "replace").decode()


def _read_callback(
    dialect: Dialect, incoming: CallbackRequest, secret: bytes | None
) -> tuple[CallbackReading | UnreadVerdict, bool]:
    """Return the reading, or the verdict that says why there is none; and whether a signature was verified."""
    rule = dialect.callback
    is_signed = False
    if rule is not None and rule.signature is not None and secret is not None:
        is_signed = rule.signature.verifies(incoming.headers, incoming.body, secret)
        if not is_signed:
            return "badSignature", False
    try:
        return dialect.read_callback(query=incoming.query, body=incoming.body), is_signed
    except UnreadableError:
        return "unreadable", is_signed
