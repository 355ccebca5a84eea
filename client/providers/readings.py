"""What a provider's message can mean: the values that every dialect gives, whatever the wire looked like.

Pure: no I/O, no clock. A reading never holds a key, a token of ours or a URL. Texts of the provider are cut to a length
that fits into rows, log lines and errors: states and codes to 100 characters, descriptions to 1,000.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = [
    "Bare",
    "Callback",
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
"""A provider's id with the JSON type that the provider gave it; compared as text."""


class Reaction(Enum):
    """What a caller does after an error code (PROVIDERS.md 6.2)."""

    WAIT = "wait"
    """Keep the task, ask again later."""
    SLOW = "slow"
    """Repeat the same request after a pause."""
    AGAIN = "again"
    """The task is dead; a new one may work."""
    CHANGE = "change"
    """A new task works only with other parameters."""
    STOP = "stop"
    """Final: a person must act."""


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _cut_error(said: Failed | Unknown | Refused) -> None:
    object.__setattr__(said, "error_code", _cut(said.error_code, _LONGEST_WORD))
    if said.error_description is not None:
        object.__setattr__(said, "error_description", _cut(said.error_description, _LONGEST_TEXT))


@dataclass(frozen=True, slots=True)
class Ready:
    """The task ended with `solution`: any JSON value but null, mostly an object."""

    solution: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The task itself ended without an answer. `error_code` is never empty.

    `is_listed` is False where only the error says so, with a code on no list or without one: it may be about anything.
    In a callback it is about the task all the same. At createTask it is a refusal, on a poll an outcome only after
    several in a row (`client.provider_api.unlisted`).
    """

    error_id: int
    error_code: str
    error_description: str | None = None
    is_listed: bool = True

    def __post_init__(self) -> None:
        _cut_error(self)


@dataclass(frozen=True, slots=True)
class Pending:
    """Not final: `state` is the provider's word for it, "" where it said nothing.

    `has_solution`: a callback said so beside a solution, so that a poll is worth it now. The word may be a new one.
    """

    state: str = ""
    has_solution: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", _cut(self.state, _LONGEST_WORD))


@dataclass(frozen=True, slots=True)
class Unknown:
    """The provider does not know the id (any more): final only after its window and a grace."""

    error_id: int
    error_code: str
    error_description: str | None = None

    def __post_init__(self) -> None:
        _cut_error(self)


@dataclass(frozen=True, slots=True)
class Refused:
    """An error about the request (key, balance, rate, address, 5xx, HTML), not about the task.

    `reaction` is SLOW or WAIT where the same request may work later (WAIT: this question alone was too early),
    otherwise STOP. `about` tells which error a caller gets: "key", "balance", "callbackUrl" or "request". `is_ban`: to
    be repeated once at most.
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
        """Whether the same request may work later."""
        return self.reaction in (Reaction.SLOW, Reaction.WAIT)


@dataclass(frozen=True, slots=True)
class Bare:
    """The task ended with an answer of which only the text came; what that is as a solution depends on the type."""

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
    """A createTask answer: the id, if one was given, and how far the task is."""

    task_id: TaskId | None
    reading: Reading


@dataclass(frozen=True, slots=True)
class Callback:
    """A delivery: the id in it, if any, and what it says."""

    task_id: TaskId | None
    reading: Ready | Bare | Failed | Pending | Notice
