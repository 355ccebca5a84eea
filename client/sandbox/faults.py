"""The faults of each task, requested or drawn. No I/O and no clock; the same seed draws the same faults.

A draw depends on the seed, on the task's content, and on how often that content was submitted (or the task polled)
before. So two runs with one seed strike the same tasks, even if their calls overlap differently. Submitting a task
again gives it another chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import Field as DataclassField
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from client.errors import BadArgumentError
from client.sandbox.settings import CallbackFault, FaultRates, HttpFault, SandboxSettings
from client.sandbox.wires.solutions import content_digest

__all__ = [
    "FaultPlan",
    "FaultPlanner",
    "Faults",
    "FaultsFor",
    "draw_faults",
    "draw_http_fault",
    "draw_latency",
    "read_faults",
    "wire_name",
]

_Fault = TypeVar("_Fault", bound=str)
_LONGEST_SECONDS = 3600.0
_MOST_CONTENTS = 50_000
_Seconds = Annotated[float, Field(ge=0, le=_LONGEST_SECONDS, allow_inf_nan=False)]
_Times = Annotated[int, Field(ge=0, le=1000)]


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The faults of one task. On the wire they stand in the task's field `sandbox`, in camelCase, all optional.

    The help of each field says what it does.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, hide_input_in_errors=True
    )

    latency_seconds: _Seconds | None = field(
        default=None, metadata=_help("The time of the task. Default: drawn from the sandbox's range.")
    )
    callback: CallbackFault | None = field(default=None, metadata=_help("The fault of its callback, see below."))
    callback_delay_seconds: _Seconds = field(
        default=0.0, metadata=_help("The time between the end of the task and its callback. Default: 0.")
    )
    fails: bool = field(default=False, metadata=_help("true: the task ends with errorCode."))
    error_code: Annotated[str, Field(min_length=1, max_length=100)] = field(
        default="ERROR_CAPTCHA_UNSOLVABLE",
        metadata=_help("The code of a failed task. Default: ERROR_CAPTCHA_UNSOLVABLE."),
    )
    create_task: HttpFault | Literal["cut"] | None = field(
        default=None, metadata=_help("The fault of createTask calls with this content, see below.")
    )
    create_task_times: _Times = field(default=1, metadata=_help("Number of first calls with it. Default: 1."))
    get_task_result: HttpFault | None = field(default=None, metadata=_help("The fault of polls, see below."))
    get_task_result_times: _Times = field(default=1, metadata=_help("Number of first polls with it. Default: 1."))
    sync: bool | None = field(
        default=None,
        metadata=_help("true: createTask answers with the solution; false: it does not. Default: by type."),
    )
    is_not_ready_an_error: bool = field(
        default=False, metadata=_help("true: polls of an unfinished task get an error (capmonster and the like).")
    )
    is_balance_low: bool = field(
        default=False, metadata=_help("true: an event balance.low comes before the callback (capsolution).")
    )


_FAULTS: TypeAdapter[Faults] = TypeAdapter(Faults)


def wire_name(declared: DataclassField[Any]) -> str:
    """Return the name of a field of `Faults` in a task."""
    return to_camel(declared.name)


def read_faults(value: Any) -> Faults:
    """Return the faults that a task's field `sandbox` asks for.

    Raises:
        BadArgumentError: not an object, an unknown field or a wrong value; the text names the field.
    """
    if not isinstance(value, dict):
        raise BadArgumentError("sandbox: expected an object")
    try:
        return _FAULTS.validate_json(to_json(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise BadArgumentError(f"sandbox.{name}: {_expectation(name, first['msg'])}") from None


def _expectation(name: str, text: str) -> str:
    names = [wire_name(declared) for declared in fields(Faults)]
    return text if name in names else f"no such field; there are {', '.join(names)}"


def draw_faults(rates: FaultRates, *, seed: int, key: str) -> Faults:
    """Return the faults of a task that requests none. `key` names the submission.

    The faults of its calls are drawn call by call, see `draw_http_fault`.
    """
    chance = _chance(seed, "task", key)
    return Faults(callback=_pick(rates.of_callbacks(), chance.random()), fails=chance.random() < rates.fails)


def draw_http_fault(rates: FaultRates, *, seed: int, call: str, key: str) -> HttpFault | None:
    """Return the fault of a call. `call` is its name, `key` tells it from others of that name."""
    return _pick(rates.of_calls(), _chance(seed, call, key).random())


def draw_latency(span: tuple[float, float], *, seed: int, key: str) -> float:
    """Return the seconds until the task of a submission is finished, evenly spread over `span`."""
    return _chance(seed, "latency", key).uniform(*span)


def _chance(seed: int, *key: str) -> random.Random:
    return random.Random("/".join((str(seed), *key)))  # noqa: S311 - faults must repeat, they are no secret


def _pick(rates: Mapping[_Fault, float], drawn: float) -> _Fault | None:
    """Return the fault in whose share of the range 0 to 1 the number falls."""
    for fault, rate in rates.items():
        if drawn < rate:
            return fault
        drawn -= rate
    return None


FaultsFor = Callable[[dict[str, Any]], Faults | None]
"""The faults of a task, by its content; None leaves them to the rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """The faults and the time of one createTask call and its task.

    `key` names the content and its submission; `times_seen` counts the submissions before it. `rates` is None for
    requested faults: then no other fault strikes.
    """

    faults: Faults
    rates: FaultRates | None
    seed: int
    key: str
    times_seen: int
    latency_seconds: float

    @property
    def is_cut(self) -> bool:
        """True if the connection closes instead of an answer, though the task is made."""
        return self.faults.create_task == "cut" and self.times_seen < self.faults.create_task_times

    def choose_for_create_task(self) -> HttpFault | None:
        """Return the fault in place of the createTask answer, and of the task."""
        if self.rates is not None:
            return draw_http_fault(self.rates, seed=self.seed, call="createTask", key=self.key)
        requested = self.faults.create_task
        if requested is None or requested == "cut" or self.times_seen >= self.faults.create_task_times:
            return None
        return requested

    def choose_for_poll(self, number: int) -> HttpFault | None:
        """Return the fault in place of the answer to poll `number`, from 1."""
        if self.rates is not None:
            return draw_http_fault(self.rates, seed=self.seed, call="getTaskResult", key=f"{self.key}/{number}")
        return self.faults.get_task_result if number <= self.faults.get_task_result_times else None


class FaultPlanner:
    """The faults of each submission: requested in the task first, by `faults_for` second, drawn by the rates last.

    The newest 50,000 contents are remembered. A forgotten one counts as new.
    """

    def __init__(self, settings: SandboxSettings, faults_for: FaultsFor | None) -> None:
        self._settings = settings
        self._faults_for = faults_for
        self._times_seen: dict[bytes, int] = {}

    def plan(self, task: dict[str, Any], requested: Faults | None) -> FaultPlan:
        """Return the plan for one more submission of this content."""
        digest = content_digest(task)
        times_seen = self._times_seen.pop(digest, 0)
        self._times_seen[digest] = times_seen + 1
        if len(self._times_seen) > _MOST_CONTENTS:
            del self._times_seen[next(iter(self._times_seen))]
        if requested is None and self._faults_for is not None:
            requested = self._faults_for(dict(task))
        key = f"{digest.hex()}/{times_seen}"
        faults = requested or draw_faults(self._settings.rates, seed=self._settings.seed, key=key)
        return FaultPlan(
            faults=faults,
            rates=None if requested else self._settings.rates,
            seed=self._settings.seed,
            key=key,
            times_seen=times_seen,
            latency_seconds=self._latency(faults, key),
        )

    def _latency(self, faults: Faults, key: str) -> float:
        # An early callback has the outcome before createTask answers, so its task takes no time.
        if faults.callback == "early":
            return 0.0
        if faults.latency_seconds is not None:
            return faults.latency_seconds
        return draw_latency(self._settings.latency_seconds, seed=self._settings.seed, key=key)
