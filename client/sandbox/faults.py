"""Which fault strikes which task: pure, and the same for the same seed, whatever order the calls come in.

A draw depends on the seed, on the task's content, and on how often that content was submitted (or the task polled)
before. So two runs with one seed strike the same tasks, also when their calls overlap differently, and submitting a
task again gives it another chance.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from client.errors import BadArgumentError

__all__ = [
    "CallbackFault",
    "FaultRates",
    "Faults",
    "HttpFault",
    "draw_faults",
    "draw_http_fault",
    "draw_latency",
    "read_faults",
]

CallbackFault = Literal["lost", "late", "twice", "early", "reordered", "truncated", "otherTaskId"]
"""What can happen to a callback.

`lost`: never sent. `late`: sent once a poll has fetched the outcome (or when the answer could be read no longer).
`twice`: sent two times. `early`: sent, and answered, before createTask answers. `reordered`: sent after the callback
of a task that finished later. `truncated`: half the body, or query; half a form can still be read, with half an answer.
`otherTaskId`: it names somebody else's task.
"""

HttpFault = Literal["429", "500", "html", "500json", "403", "unlisted"]
"""Faults in the place of an answer: 429 (JSON, Retry-After), 500 (plain text), an HTML page under HTTP 200.

Only where it is ordered: `500json` (an error without a code under 500), `403` (an HTML page, as of a firewall),
`unlisted` (an error whose code is on no list).
"""

_Fault = TypeVar("_Fault", bound=str)
_LONGEST_SECONDS = 3600.0
_Seconds = Annotated[float, Field(ge=0, le=_LONGEST_SECONDS, allow_inf_nan=False)]
_Times = Annotated[int, Field(ge=0, le=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What one task meets. On the wire, in a task's field `sandbox`: the same names in camelCase, all optional.

    `latency_seconds` None takes the sandbox's range; `callback_delay_seconds` is added between the end of the task and
    its callback. `fails` ends the task with `error_code`. `create_task` strikes the first `create_task_times` calls
    with this content, and no task is made; `cut` makes the task and then closes the connection without an answer.
    `get_task_result` strikes the first `get_task_result_times` polls. `sync` None leaves it to the type.
    `is_not_ready_an_error`: while it is processing, polls bring the error that means so, where the provider has one.
    `is_balance_low`: before its callback, an account-wide address is told that the balance is low.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, hide_input_in_errors=True
    )

    latency_seconds: _Seconds | None = None
    callback: CallbackFault | None = None
    callback_delay_seconds: _Seconds = 0.0
    fails: bool = False
    error_code: Annotated[str, Field(min_length=1, max_length=100)] = "ERROR_CAPTCHA_UNSOLVABLE"
    create_task: HttpFault | Literal["cut"] | None = None
    create_task_times: _Times = 1
    get_task_result: HttpFault | None = None
    get_task_result_times: _Times = 1
    sync: bool | None = None
    is_not_ready_an_error: bool = False
    is_balance_low: bool = False


_FAULTS: TypeAdapter[Faults] = TypeAdapter(Faults)
_WIRE_NAMES = tuple(to_camel(each.name) for each in fields(Faults))


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
        name = first["loc"][0] if first["loc"] else ""
        raise BadArgumentError(f"sandbox.{name}: {_what_was_expected(str(name), first['msg'])}") from None


def _rate(text: str) -> Any:
    return field(default=0.0, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """How often each fault strikes, as probabilities; at most one of the callback faults strikes a task.

    Raises:
        BadArgumentError: a rate outside 0 to 1, or rates of one kind that add up to more than 1.
    """

    callback_lost: float = _rate("Callbacks that are never sent.")
    callback_late: float = _rate("Callbacks sent only after a poll has fetched the outcome.")
    callback_twice: float = _rate("Callbacks sent two times.")
    callback_early: float = _rate("Callbacks that overtake the createTask answer.")
    callback_reordered: float = _rate("Callbacks sent after that of a task which finished later.")
    callback_truncated: float = _rate("Callbacks with half a body.")
    callback_other_task_id: float = _rate("Callbacks that name somebody else's task.")
    fails: float = _rate("Tasks that end with ERROR_CAPTCHA_UNSOLVABLE.")
    http_429: float = _rate("Calls answered by HTTP 429.")
    http_500: float = _rate("Calls answered by HTTP 500, without JSON.")
    html: float = _rate("Calls answered by an HTML page under HTTP 200.")

    def __post_init__(self) -> None:
        for rate in fields(self):
            value = getattr(self, rate.name)
            if not (isfinite(value) and 0 <= value <= 1):
                raise BadArgumentError(f"{rate.name}: expected a probability from 0 to 1, got {value}")
        for kind, rates in (("callback", self.of_callbacks()), ("HTTP", self.of_calls())):
            if sum(rates.values()) > 1 + 1e-9:
                raise BadArgumentError(f"the probabilities of all {kind} faults add up to more than 1")

    def of_callbacks(self) -> dict[CallbackFault, float]:
        """Return the rate of each callback fault."""
        return {fault: getattr(self, f"callback_{_snake(fault)}") for fault in get_args(CallbackFault)}

    def of_calls(self) -> dict[HttpFault, float]:
        """Return the rate of each fault that can strike any call."""
        return {"429": self.http_429, "500": self.http_500, "html": self.html}


def draw_faults(rates: FaultRates, *, seed: int, key: str) -> Faults:
    """Return the faults of a task nobody ordered any for; `key` names the submission.

    What strikes its calls is drawn call by call, see `draw_http_fault`.
    """
    chance = _chance(seed, "task", key)
    return Faults(callback=_pick(rates.of_callbacks(), chance.random()), fails=chance.random() < rates.fails)


def draw_http_fault(rates: FaultRates, *, seed: int, call: str, key: str) -> HttpFault | None:
    """What strikes the call `call` that `key` names."""
    return _pick(rates.of_calls(), _chance(seed, call, key).random())


def draw_latency(span: tuple[float, float], *, seed: int, key: str) -> float:
    """Seconds until the task of a submission is finished, evenly spread over `span`."""
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


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _what_was_expected(name: str, text: str) -> str:
    return f"no such field; there are {', '.join(_WIRE_NAMES)}" if name not in _WIRE_NAMES else text
