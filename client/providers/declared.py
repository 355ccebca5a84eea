"""What all dialects share that are declared by their facts: how callbacks are read, and what a bare answer becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from client.errors import BadArgumentError
from client.providers.callbacks import JSON_SHAPES, SHAPES, Delivery
from client.providers.codes import FAMILY_CODES, Code
from client.providers.dialect import CallbackRule, KeyLimits, PollPlan
from client.providers.facts import Fact
from client.providers.readings import Callback, Failed, Reading, Refused
from client.providers.values import parse_json

__all__ = ["DeclaredDialect", "IdType", "ReportRule"]

IdType = Literal["integer", "text"]
"""The JSON type in which createTask gives ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRule:
    """A request that tells of a right or a wrong answer.

    `types` are parts of task types that it is for, in small letters; none: all.
    """

    name: str
    is_good: bool
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredDialect:
    """The facts of a provider; see `Dialect` for what each means.

    `solutions` holds, for each task type, the fields of which its solution is made where all that is known of it is one
    text: each holds that text. `pending_error_ids` are errors that mean "not yet", by number, at a provider that has no
    code for it. `image_type` is the `type` of a task that reads the image in its `body`; None: how it takes images is
    not known.
    """

    provider: str
    base_url: str | None
    callback: CallbackRule | None
    polls: PollPlan
    key_limits: KeyLimits = field(default_factory=KeyLimits)
    answer_life_seconds: float | None = None
    has_app_id: bool = False
    codes: Mapping[str, Code] = field(default_factory=lambda: FAMILY_CODES)
    pending_error_ids: frozenset[int] = frozenset()
    id_type: IdType = "text"
    image_type: str | None = "ImageToTextTask"
    solutions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reports: Sequence[ReportRule] = ()
    facts: Sequence[Fact] = ()

    def read_callback(self, *, query: bytes, body: bytes) -> Callback:
        """What a delivery says; see `client.providers.callbacks`.

        Raises:
            UnreadableError: nothing that this provider is known to send.
        """
        rule = self.callback or CallbackRule()
        return SHAPES[rule.shape](
            Delivery(rule, self.codes, query, body, self.id_type == "integer", self.pending_error_ids)
        )

    def solution_of(self, code: str, task_type: str | None) -> Any | None:
        """Return the solution of which `code` is all, by the type of the task.

        Where that is not known, it is what was said: `{"code": …}`, or the JSON that `code` is.
        """
        if self.callback is not None and self.callback.shape in JSON_SHAPES:
            return parse_json(code.encode()) if task_type is None else None
        if task_type is None:
            return {"code": code}
        names = self.solutions.get(task_type)
        return None if names is None else dict.fromkeys(names, code)

    def refuses_callback_url(self, reading: Reading) -> bool:
        """Whether the refusal names the address. No provider here documents a code for it, so the text decides."""
        if not isinstance(reading, Failed | Refused):
            return False
        said = f"{reading.error_code} {reading.error_description or ''}".lower()
        return "callback" in said or "pingback" in said

    def report_rule(self, task_type: str | None, *, is_good: bool) -> ReportRule:
        """Return the request by which an answer to such a task is reported.

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
        known = ", ".join(part for rule in rules for part in rule.types)
        raise BadArgumentError(f"type: {self.provider} takes reports of {word} answers for {known} only")
