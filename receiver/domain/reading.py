"""Callbacks and reported answers, read with the dialects of their providers. Pure, and below all decisions.

A callback arrives as a `CallbackRequest`. The dialect makes a `CallbackReading` of it, or there is a verdict instead.
Its bytes are kept as a `StoredDelivery`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import to_json

from client.errors import UnreadableError
from client.protocol.models import PROVISIONAL, FirstOutcome
from client.provider_api.unlisted import is_provisional
from client.providers import Dialect
from client.providers.readings import (
    Bare,
    CallbackReading,
    Failed,
    Notice,
    Pending,
    Reading,
    Ready,
    Refused,
    TaskId,
    Unknown,
)
from client.providers.values import task_id_text
from receiver.domain.records import SECOND, Outcome, StoredDelivery, TaskRecord
from receiver.domain.verdicts import UnreadVerdict
from receiver.errors import ReceiverError

__all__ = [
    "CallbackRequest",
    "Origin",
    "ReportedAnswer",
    "id_text_of",
    "make_outcome",
    "meaning_for_type",
    "read_answer",
    "read_callback",
    "read_kept",
    "read_stored",
    "undecided_delivery",
]

_LONGEST_CONTENT_TYPE = 200


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True, kw_only=True)
class CallbackRequest:
    """A callback as it came over HTTP; `query` is raw.

    `is_foreign`: its address is not among those of the provider. `address` is set to log a refusal.
    """

    method: str
    headers: Mapping[str, str]
    query: bytes
    body: bytes
    is_foreign: bool = False
    address: str | None = None


# Not frozen, as one is made for each outcome. Nothing changes it.
@dataclass(slots=True)
class Origin:
    """The source of an outcome, the trust in it, and the time when it was finished."""

    source: str
    trust: str
    finished_at: int
    answer_life_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedAnswer:
    """A provider's answer to a client or to the receiver itself, as the dialect read it.

    `unknown_final_after` is a time after the task's `counts_from`, in µs: window and grace. From then on the provider's
    "unknown id" ends the task. `size` is that of the answer, in bytes.
    """

    reading: Reading
    origin: Origin
    polls: int | None
    reported_at: int
    unknown_final_after: int
    size: int

    def outcome_of(self, task: TaskRecord) -> Ready | Failed | None:
        """Return the outcome in the answer, if there is one. An error about the request is one only at submit."""
        reading = self.reading
        match reading:
            case Ready() | Failed():
                return reading
            case Pending():
                return None
            case Refused() | Unknown() if self.origin.source == "submit":
                return Failed(reading.error_id, reading.error_code, reading.error_description)
            case Unknown() if self.reported_at >= task.counts_from + self.unknown_final_after:
                return Failed(reading.error_id, reading.error_code, reading.error_description)
            case _:
                return None


# Callbacks


def read_callback(
    dialect: Dialect, request: CallbackRequest, secret: bytes | None
) -> tuple[CallbackReading | UnreadVerdict, bool]:
    """Return the reading, or the verdict if there is none; and True if a signature was verified.

    With a `secret`, a callback without its signature is not read at all. Neither is one from a foreign address.
    """
    if request.is_foreign:
        return "foreignAddress", False
    rule = dialect.callback
    is_signed = False
    if rule is not None and rule.signature is not None and secret is not None:
        is_signed = rule.signature.verifies(request.headers, request.body, secret)
        if not is_signed:
            return "badSignature", False
    return _read(dialect, request.query, request.body), is_signed


def undecided_delivery(
    request: CallbackRequest, reading: CallbackReading | UnreadVerdict, *, standing_id: str | None, now: int
) -> StoredDelivery:
    """Return the callback as it will be kept, without its verdict. `standing_id` names the standing URL it came on."""
    body = request.query if request.method == "GET" else request.body
    return StoredDelivery(
        received_at=now,
        method=request.method,
        content_type=_storable(request.headers.get("Content-Type", "")[:_LONGEST_CONTENT_TYPE]) or None,
        body=body,
        size=len(body),
        id_text=id_text_of(reading),
        standing_id=standing_id,
    )


def read_stored(dialect: Dialect, delivery: StoredDelivery) -> CallbackReading | UnreadVerdict:
    """Return the reading of kept bytes. The signature is not kept, so it is not checked."""
    kept = delivery.body or b""
    return _read(dialect, kept, b"") if delivery.method == "GET" else _read(dialect, b"", kept)


def read_kept(dialects: Mapping[str, Dialect], task: TaskRecord, delivery: StoredDelivery) -> Outcome | None:
    """Return the outcome in a kept delivery of the task, or None if it holds none, or none any more."""
    dialect = dialects.get(task.provider)
    if dialect is None or delivery.body is None:
        return None
    reading = read_stored(dialect, delivery)
    # A text is a verdict instead of a reading.
    if isinstance(reading, str):
        return None
    meaning = meaning_for_type(dialect, reading, task.type)
    if not isinstance(meaning, Ready | Failed):
        return None
    trust = "token" if delivery.standing_id is None else "standing"
    return make_outcome(meaning, Origin("callback", trust, delivery.received_at, dialect.answer_life_seconds))


def meaning_for_type(
    dialect: Dialect, reading: CallbackReading, task_type: str | None
) -> Ready | Bare | Failed | Pending | Notice:
    """Return the meaning for a task of this type. A bare answer stays bare if a poll would bring more."""
    meaning = reading.reading
    if not isinstance(meaning, Bare):
        return meaning
    solution = dialect.solution_of(meaning.code, task_type)
    return meaning if solution is None else Ready(solution)


def id_text_of(reading: CallbackReading | UnreadVerdict) -> str | None:
    """Return the provider's id in a reading, as it is compared."""
    # A text is a verdict instead of a reading.
    if isinstance(reading, str) or reading.task_id is None:
        return None
    return task_id_text(reading.task_id)


def _read(dialect: Dialect, query: bytes, body: bytes) -> CallbackReading | UnreadVerdict:
    try:
        return dialect.read_callback(query=query, body=body)
    except UnreadableError:
        return "unreadable"


def _storable(header: str) -> str:
    """Return the header without bytes outside UTF-8. aiohttp lets them through, but no store takes them."""
    return header.encode("utf-8", "replace").decode()


# Answers


def read_answer(dialect: Dialect, report: FirstOutcome, now: int) -> tuple[TaskId | None, ReportedAnswer]:
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
    limit_seconds = dialect.polls.window_seconds + dialect.polls.grace_seconds
    return task_id, ReportedAnswer(
        reading=reading,
        origin=Origin(report.source, "reported", finished_at, dialect.answer_life_seconds),
        polls=report.polls,
        reported_at=now,
        unknown_final_after=round(limit_seconds * SECOND),
        size=len(to_json(report.answer)),
    )


# Both


def make_outcome(reading: Ready | Failed, origin: Origin) -> Outcome:
    """Return the outcome in a reading. An error of a poll with an unlisted code is provisional."""
    if isinstance(reading, Ready):
        life = origin.answer_life_seconds
        return Outcome(
            status="ready",
            solution=to_json(reading.solution).decode(),
            error_id=0,
            error_code=None,
            error_description=None,
            source=origin.source,
            trust=origin.trust,
            finished_at=origin.finished_at,
            valid_until=None if life is None else origin.finished_at + round(life * SECOND),
        )
    return Outcome(
        status="failed",
        solution=None,
        error_id=reading.error_id,
        error_code=reading.error_code,
        error_description=reading.error_description,
        source=origin.source,
        trust=PROVISIONAL if is_provisional(reading, origin.source) else origin.trust,
        finished_at=origin.finished_at,
        valid_until=None,
    )
