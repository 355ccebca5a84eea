"""The possible meanings of a provider's message: the same values for every dialect and wire format.

Pure: no I/O, no clock. A reading never holds a key, one of our tokens or a URL. Texts of the provider are cut to fit
into rows, log lines and errors: states and codes to 100 characters, descriptions to 1,000.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = [
    "Bare",
    "CallbackReading",
    "Failed",
    "Notice",
    "Pending",
    "Reaction",
    "Reading",
    "Ready",
    "Refused",
    "Submitted",
    "TaskId",
    "Unknown",
]

_LONGEST_WORD = 100
_LONGEST_TEXT = 1000

TaskId = int | str
"""A provider's id with its original JSON type; compared as text."""


class Reaction(Enum):
    """The caller's reaction to an error code (providers/README.md, "Error codes")."""

    WAIT = "wait"
    """Keep the task, ask again later."""
    SLOW = "slow"
    """Repeat the same request after a pause."""
    AGAIN = "again"
    """The task failed; a new one may work."""
    CHANGE = "change"
    """A new task works only with other parameters."""
    STOP = "stop"
    """Final: a person must act."""


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _cut_error(error: Failed | Unknown | Refused) -> None:
    object.__setattr__(error, "error_code", _cut(error.error_code, _LONGEST_WORD))
    if error.error_description is not None:
        object.__setattr__(error, "error_description", _cut(error.error_description, _LONGEST_TEXT))


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True)
class Ready:
    """The task ended with `solution`: any JSON value but null, mostly an object."""

    solution: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The task itself ended without an answer. `error_code` is never empty.

    `is_listed` is False for a code on no list, or for no code at all: the error may be about anything. In a callback it
    is still about the task. At createTask it is a refusal. On a poll it is an outcome only after several in a row
    (`client.provider_api.unlisted`).
    """

    error_id: int
    error_code: str
    error_description: str | None = None
    is_listed: bool = True

    def __post_init__(self) -> None:
        _cut_error(self)


@dataclass(frozen=True, slots=True)
class Pending:
    """A state before the end: `state` is the provider's word for it, or "" without one.

    With `has_solution` a callback carried this state beside a solution, so a poll is worth it now. The word may be a
    new one for the end.
    """

    state: str = ""
    has_solution: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", _cut(self.state, _LONGEST_WORD))


@dataclass(frozen=True, slots=True)
class Unknown:
    """An id unknown to the provider, or forgotten by it: final only after its window and a grace period."""

    error_id: int
    error_code: str
    error_description: str | None = None

    def __post_init__(self) -> None:
        _cut_error(self)


@dataclass(frozen=True, slots=True)
class Refused:
    """An error about the request (key, balance, rate, address, 5xx, HTML), not about the task.

    `reaction` is SLOW or WAIT if the same request may work later, otherwise STOP. After WAIT this poll alone was too
    early. `about` selects the caller's error: "key", "balance", "callbackUrl" or "request". With `is_ban` the request
    is repeated once at most.
    """

    error_id: int
    error_code: str
    error_description: str | None = None
    reaction: Reaction = Reaction.STOP
    about: str = "request"
    pause_seconds: float = 0.0
    is_ban: bool = False

    def __post_init__(self) -> None:
        _cut_error(self)

    @property
    def is_passing(self) -> bool:
        """True if the same request may work later."""
        return self.reaction in (Reaction.SLOW, Reaction.WAIT)


@dataclass(frozen=True, slots=True)
class Bare:
    """The task ended with an answer, but only its text came. The form of the solution depends on the type of task."""

    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """An event of the account without a task in it."""

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _cut(self.name, _LONGEST_WORD))


Reading = Ready | Failed | Pending | Unknown | Refused


@dataclass(frozen=True, slots=True)
class Submitted:
    """A createTask answer: the id, if there is one, and the state of the task."""

    task_id: TaskId | None
    reading: Reading


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True)
class CallbackReading:
    """A callback: the id in it, if any, and its meaning."""

    task_id: TaskId | None
    reading: Ready | Bare | Failed | Pending | Notice
