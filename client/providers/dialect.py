"""The description of one provider: its facts, and pure code for its requests, answers and callbacks.

A dialect does no I/O and reads no clock. Its methods are total over bytes: each returns a reading or raises
`UnreadableError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from client.errors import BadArgumentError
from client.providers.callbacks import SHAPES, CallbackBytes
from client.providers.codes import FAMILY_CODES, Code
from client.providers.facts import Fact
from client.providers.readings import CallbackReading, Failed, Reading, Refused, Submitted, TaskId
from client.providers.rules import CallbackRule, IdType, KeyLimits, PollPlan, ReportRule

__all__ = ["Call", "Dialect", "Family"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a provider, relative to its base URL. It holds the client key: never log it.

    `name` is the provider's name for the request, for logs and error texts. `seconds` limits the wait for the answer,
    if the usual limit does not fit.
    """

    name: str
    path: str = field(repr=False)
    method: str = "POST"
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One provider: its facts as fields, and its wire format as `family`."""

    provider: str
    """The name in URLs and rows."""
    title: str = ""
    """The name in documents."""
    base_url: str | None
    """The documented endpoint without a final slash; None if it is unknown."""
    callback: CallbackRule | None
    """The form of its callbacks; None if it documents none."""
    polls: PollPlan
    """The limits on getTaskResult."""
    family: Family
    """The wire format of its requests and answers."""
    key_limits: KeyLimits = field(default_factory=KeyLimits)
    """The limits on all tasks of a key together."""
    has_api: bool = True
    """False if its requests are unknown. Only its callbacks are read then."""
    create_seconds: float | None = None
    """The time limit of createTask; None for the usual one."""
    answer_life_seconds: float | None = None
    """The documented validity of a finished answer; None if it is unknown."""
    has_app_id: bool = False
    """True if createTask takes an `appId`."""
    codes: Mapping[str, Code] = field(default_factory=lambda: FAMILY_CODES)
    """The meaning of each error code."""
    pending_error_ids: frozenset[int] = frozenset()
    """Error numbers with the meaning "not yet", at a provider without a code for it."""
    id_type: IdType = "text"
    """The JSON type of its ids."""
    solutions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For each task type, the fields of a solution made from one text. Each field holds the text."""
    reports: Sequence[ReportRule] = ()
    """The requests for reporting right and wrong answers."""
    facts: Sequence[Fact] = ()
    """The known facts about it, with their certainty."""

    @property
    def image_type(self) -> str | None:
        """The `type` of a task with an image in its `body`; None if its way of taking images is unknown."""
        return self.family.image_type

    def create_task(
        self, client_key: str, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> Call:
        """Return the request for submitting a task.

        Raises:
            BadArgumentError: `task` cannot be written, or the requests of this provider are unknown.
        """
        return self.family.create_task(self, client_key, task, callback_url=callback_url, app_id=app_id)

    def get_task_result(self, client_key: str, task_id: TaskId) -> Call:
        """Return the request for the state of a task.

        Raises:
            BadArgumentError: the requests of this provider are unknown.
        """
        return self.family.get_task_result(self, client_key, task_id)

    def get_balance(self, client_key: str) -> Call:
        """Return the request for the balance.

        Raises:
            BadArgumentError: no such request is known of this provider.
        """
        return self.family.get_balance(self, client_key)

    def report(self, client_key: str, task_id: TaskId, task_type: str | None, *, is_good: bool) -> Call:
        """Return the request for reporting a right or a wrong answer (providers/README.md, "Balance and reports").

        Raises:
            BadArgumentError: no such request is known of this provider, or none for this type of task.
        """
        rule = self.report_rule(task_type, is_good=is_good)
        return self.family.report(self, client_key, task_id, rule)

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return an answer as JSON. Plain text is wrapped into the provider's own JSON form.

        Raises:
            UnreadableError: it is neither, for example an HTML page.
        """
        return self.family.parse_answer(raw)

    def read_create_task(self, answer: Any) -> Submitted:
        """Return the meaning of a parsed createTask answer."""
        return self.family.read_create_task(self, answer)

    def read_task_result(self, answer: Any) -> Reading:
        """Return the meaning of a parsed getTaskResult answer: the state of the task, or an error."""
        return self.family.read_task_result(self, answer)

    def read_balance(self, answer: Any) -> float | Reading:
        """Return the balance, or the error in its place."""
        return self.family.read_balance(self, answer)

    def read_report(self, answer: Any) -> Reading:
        """Return `Pending` if the report was taken, or else the error."""
        return self.family.read_report(self, answer)

    def read_callback(self, *, query: bytes, body: bytes) -> CallbackReading:
        """Return the meaning of a callback. `query` is the raw query string. Content types are ignored.

        Raises:
            UnreadableError: this provider is not known to send such a callback.
        """
        rule = self.callback or CallbackRule()
        return SHAPES[rule.shape](
            CallbackBytes(rule, self.codes, query, body, self.id_type == "integer", self.pending_error_ids)
        )

    def solution_of(self, code: str, task_type: str | None) -> Any | None:
        """Return the solution of a poll, made from the bare `code` of a callback.

        The result is None if a poll brings more than the code. The callback is then only a hint to poll.
        Without a type it is the content of the callback: `{"code": …}`, or the JSON in `code`.
        """
        return self.family.solution_of(self, code, task_type)

    def refuses_callback_url(self, reading: Reading) -> bool:
        """Return True if createTask was refused because of the callback URL. It may be repeated without one.

        No provider documents a code for such a refusal. Therefore the text decides.
        """
        if not isinstance(reading, Failed | Refused):
            return False
        text = f"{reading.error_code} {reading.error_description or ''}".lower()
        return "callback" in text or "pingback" in text

    def report_rule(self, task_type: str | None, *, is_good: bool) -> ReportRule:
        """Return the rule for reporting an answer to such a task.

        Raises:
            BadArgumentError: none is known.
        """
        word = "right" if is_good else "wrong"
        rules = [rule for rule in self.reports if rule.is_good is is_good]
        if not rules:
            raise BadArgumentError(f"{self.provider}: no way to report a {word} answer is known")
        for rule in rules:
            if not rule.types or any(part in (task_type or "").lower() for part in rule.types):
                return rule
        types = ", ".join(part for rule in rules for part in rule.types)
        raise BadArgumentError(f"type: {self.provider} takes reports of {word} answers for {types} only")


class Family(Protocol):
    """A wire format, shared by several providers. It has no state: each method gets the dialect of one provider.

    The methods of `Dialect` with the same names state the results and the errors.
    """

    @property
    def requests(self) -> str:
        """The names of its submitting requests, in words."""

    @property
    def image_type(self) -> str | None:
        """The `type` of a task with an image in its `body`, or None."""

    def create_task(
        self,
        dialect: Dialect,
        client_key: str,
        task: Mapping[str, Any],
        *,
        callback_url: str | None,
        app_id: str | None,
    ) -> Call:
        """Return the request for submitting a task."""

    def get_task_result(self, dialect: Dialect, client_key: str, task_id: TaskId) -> Call:
        """Return the request for the state of a task."""

    def get_balance(self, dialect: Dialect, client_key: str) -> Call:
        """Return the request for the balance."""

    def report(self, dialect: Dialect, client_key: str, task_id: TaskId, rule: ReportRule) -> Call:
        """Return the request for a report by this rule."""

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return an answer as JSON."""

    def read_create_task(self, dialect: Dialect, answer: Any) -> Submitted:
        """Return the meaning of a createTask answer."""

    def read_task_result(self, dialect: Dialect, answer: Any) -> Reading:
        """Return the meaning of a getTaskResult answer."""

    def read_balance(self, dialect: Dialect, answer: Any) -> float | Reading:
        """Return the balance, or the error in its place."""

    def read_report(self, dialect: Dialect, answer: Any) -> Reading:
        """Return `Pending` if the report was taken."""

    def solution_of(self, dialect: Dialect, code: str, task_type: str | None) -> Any | None:
        """Return the solution made from a bare answer, or None if a poll brings more."""
