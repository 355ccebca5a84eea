"""The verdicts on callbacks and reports. One row of a table holds all facts about a verdict.

The response to the provider, the counts, the timeline of a task, the doctor and the documents read this table.

A new verdict is a name in the type and a row. A type checker refuses any other name, and a test a name without a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

__all__ = ["UNREAD", "VERDICTS", "UnreadVerdict", "Verdict", "VerdictRow", "is_refusal"]

UnreadVerdict = Literal["foreignAddress", "badSignature", "unreadable"]
"""The verdict on a callback without a reading."""

Verdict = (
    Literal["accepted", "duplicate", "late", "disagreed", "notFinal", "held", "notice", "forgotten", "mismatched"]
    | UnreadVerdict
)


def is_refusal(status: int) -> bool:
    """Return True if this response tells the provider that its callback was not taken."""
    return status >= 400


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRow:
    """The facts about one verdict.

    `condition` stands in the receiver's README. `timeline` explains one delivery. It may hold `{id}`, `{size}`,
    `{content}` and `{provider}` of that delivery. `remedy` tells the operator of many such callbacks what to do.
    `is_late` marks a callback that came after the outcome. `status` is the response to the provider.
    """

    name: Verdict
    condition: str
    timeline: str
    status: int = 200
    remedy: str | None = None
    is_late: bool = False

    @property
    def is_refused(self) -> bool:
        """True if the provider is told that the callback was wrong."""
        return is_refusal(self.status)


_ROWS = (
    VerdictRow(
        name="accepted",
        condition="it became the outcome",
        timeline="it became the outcome",
    ),
    VerdictRow(
        name="duplicate",
        condition="the same outcome came before, by the same way",
        timeline="it repeats the outcome, which an earlier callback brought",
    ),
    VerdictRow(
        name="late",
        condition="the same outcome came before, by another way",
        timeline="it repeats the outcome, which came by another way",
        is_late=True,
    ),
    VerdictRow(
        name="disagreed",
        condition="a different outcome came before; the first one stands",
        timeline="it contradicts the outcome, which stands because it came first",
        is_late=True,
    ),
    VerdictRow(
        name="notFinal",
        condition=(
            "the task is still processing. A solution with an unknown state, or with less than a poll brings, is a hint"
        ),
        timeline="it was no answer yet, or a poll has to complete or confirm it",
    ),
    VerdictRow(
        name="held",
        condition=(
            "the provider is asked to confirm it (`RECEIVER_CONFIRM_CALLBACKS`). "
            "Without an answer for 10 s the callback is the outcome"
        ),
        timeline="it is held back until the provider has confirmed it",
    ),
    VerdictRow(
        name="notice",
        condition="an event without a task",
        timeline="it is not about a task",
    ),
    VerdictRow(
        name="forgotten",
        condition="the task was deleted",
        timeline="the task was deleted before",
    ),
    VerdictRow(
        name="mismatched",
        condition="it names another task's id; a hint",
        timeline="it names {id}, which is not that of this task",
        status=409,
        remedy="Give each createTask a callbackUrl of its own: these callbacks belong to other tasks",
    ),
    VerdictRow(
        name="foreignAddress",
        condition="it came from an address outside `RECEIVER_CALLBACK_ADDRESSES`; a hint",
        timeline="it came from an address outside RECEIVER_CALLBACK_ADDRESSES",
        status=403,
        remedy=(
            "Look for the addresses in the log. Add those of the provider to RECEIVER_CALLBACK_ADDRESSES. "
            "If they are not the provider's, someone knows callback URLs"
        ),
    ),
    VerdictRow(
        name="badSignature",
        condition="its signature is wrong; a hint",
        timeline="it was not signed with the secret in RECEIVER_CALLBACK_SECRETS",
        status=401,
        remedy="Check the secret in RECEIVER_CALLBACK_SECRETS. If it is correct, someone is forging callbacks",
    ),
    VerdictRow(
        name="unreadable",
        condition="this provider doesn't write like that; the bytes are kept under a quota; a hint",
        timeline="{size} bytes of {content} that are no callback of {provider}",
        status=422,
        remedy="Correct the provider in RECEIVER_PROVIDERS_FILE, restart, then run callback-receiver redeliver",
    ),
)

VERDICTS: Mapping[str, VerdictRow] = MappingProxyType({row.name: row for row in _ROWS})
"""The row of each verdict by its name."""

UNREAD: frozenset[Verdict] = frozenset(get_args(UnreadVerdict))
