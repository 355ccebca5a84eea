"""Providers that users declare in a file of their own, in TOML: one table each, named after the provider.

    [myprovider]
    like = "capmonster"
    baseUrl = "https://api.example.com"

    [myprovider.polls]
    intervalSeconds = 5

`like` takes everything from a provider that is known; what stands beside it replaces that. The table of a known
provider changes that one. Pure: the bytes of the file are an argument.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from client.errors import BadArgumentError
from client.providers.codes import Code
from client.providers.declared import IdType, ReportRule
from client.providers.dialect import CallbackRule, Dialect, KeyLimits, PollPlan, Rate, SignatureRule
from client.providers.facts import Fact, Mark
from client.providers.json_family import JsonDialect
from client.providers.readings import Reaction
from client.providers.scrapeless_family import ScrapelessDialect
from client.providers.v1_family import V1Dialect

__all__ = ["read_providers"]

_NAME = re.compile(r"[a-z0-9]{1,32}")
_PASSING = ("wait", "slow")
_POLLS = PollPlan(
    first_after_seconds=5.0,
    first_after_callback_seconds=35.0,
    interval_seconds=3.0,
    max_polls=None,
    window_seconds=300.0,
)
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class _Declared(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)

    def given(self) -> dict[str, Any]:
        """What stands in the file, by the names of the dialect."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class _Rate(_Declared):
    count: Count
    seconds: Seconds


class _Polls(_Declared):
    first_after_seconds: Seconds = 1
    first_after_callback_seconds: Seconds = 1
    interval_seconds: Seconds = 1
    max_polls: Count = 1
    window_seconds: Seconds = 1
    grace_seconds: Seconds = 1


class _Limits(_Declared):
    requests_per_second: Annotated[float, Field(gt=0, le=10_000)] = 1
    submits: _Rate | None = None
    errors: _Rate | None = None
    polls_for_each: Count | None = None
    polls_for_all: Annotated[int, Field(ge=0)] = 0


class _Signature(_Declared):
    headers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=5, strict=False)]
    is_rewritten: bool = False


class _Callback(_Declared):
    methods: Annotated[frozenset[Literal["GET", "POST"]], Field(min_length=1, strict=False)] = frozenset({"POST"})
    task_id: Literal["documented", "observed", "inferred", "missing"] = "inferred"
    signature: _Signature | None = None
    shape: Literal["result", "code", "hardcaptcha", "capsolution", "scrapeless"] = "result"
    id_field: Name = "id"
    code_field: Name = "code"
    status_field: Name | None = None
    is_account_wide: bool = False


class _Code(_Declared):
    reaction: Literal["wait", "slow", "again", "change", "stop"]
    about: Literal["task", "key", "balance", "request", "id", "state"] | None = None
    pause_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    is_ban: bool = False

    @model_validator(mode="after")
    def _is_no_end_where_it_passes(self) -> _Code:
        if self.reaction in _PASSING and self.about == "task":
            raise ValueError(f"about: an error about the task ends it, which {self.reaction!r} does not")
        return self


class _Report(_Declared):
    name: Name
    is_good: bool
    types: Annotated[tuple[Name, ...], Field(strict=False)] = ()


class _Fact(_Declared):
    about: Name
    known: Name
    mark: Mark
    source: Annotated[str, Field(max_length=300)] = ""


class _Provider(_Declared):
    like: str | None = None
    api: Literal["json", "v1", "none"] | None = None
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+[^\s?#@]*$", max_length=500)] | None = None
    callback: _Callback | Literal[False] | None = None
    polls: _Polls = _Polls()
    limits: _Limits = _Limits()
    answer_life_seconds: Seconds | None = None
    has_app_id: bool = False
    id_type: IdType = "text"
    pending_error_ids: Annotated[frozenset[int], Field(strict=False)] = frozenset()
    codes: dict[Name, _Code] = Field(default_factory=dict)
    solutions: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]] = Field(default_factory=dict)
    reports: Annotated[tuple[_Report, ...], Field(strict=False)] = ()
    facts: Annotated[tuple[_Fact, ...], Field(strict=False)] = ()


def read_providers(raw: bytes, known: Mapping[str, Dialect]) -> Mapping[str, Dialect]:
    """Return the providers of the file beside those that are known.

    Raises:
        BadArgumentError: the file is no TOML, or a table is wrong; the text names the table, the field and what was
            expected.
    """
    try:
        tables = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadArgumentError(f"not TOML: {error}") from None
    dialects = dict(known)
    for name, table in tables.items():
        dialects[name] = _dialect(name, table, dialects)
    return MappingProxyType(dialects)


def _dialect(name: str, table: Any, known: Mapping[str, Dialect]) -> Dialect:
    if not _NAME.fullmatch(name):
        raise BadArgumentError(f"[{name[:80]}]: a provider's name has 1 to 32 of a-z and 0-9")
    if not isinstance(table, dict):
        raise BadArgumentError(f"{name}: expected a table, [{name}]")
    try:
        declared = _Provider.model_validate(table)
    except ValidationError as error:
        raise BadArgumentError(f"[{name}] {_said(error)}") from None
    model = _model(name, declared, known)
    callback = model.callback if declared.callback is None else _callback(declared.callback, model.callback)
    given = declared.given().keys()
    return replace(
        model,
        provider=name,
        base_url=model.base_url if declared.base_url is None else declared.base_url.rstrip("/"),
        callback=callback,
        polls=_polls(name, replace(model.polls, **declared.polls.given())),
        key_limits=_limits(model.key_limits, declared.limits),
        answer_life_seconds=declared.answer_life_seconds or model.answer_life_seconds,
        has_app_id=declared.has_app_id if "has_app_id" in given else model.has_app_id,
        id_type=declared.id_type if "id_type" in given else model.id_type,
        pending_error_ids=declared.pending_error_ids if "pending_error_ids" in given else model.pending_error_ids,
        codes=MappingProxyType({**model.codes, **{code: _code(each) for code, each in declared.codes.items()}}),
        solutions=MappingProxyType({**model.solutions, **declared.solutions}),
        reports=tuple(ReportRule(**each.model_dump()) for each in declared.reports) or model.reports,
        facts=tuple(Fact(**each.model_dump()) for each in declared.facts) or _facts(name, declared, model),
    )


def _facts(name: str, declared: _Provider, model: Dialect) -> tuple[Fact, ...]:
    """What is known of the model. Of another provider that is like it, it is no more than inferred."""
    about_others = ("endpoint",) if declared.base_url is not None else ()
    facts = (fact for fact in model.facts if fact.about not in about_others)
    if model.provider == name:
        return tuple(facts)
    return tuple(
        fact
        if fact.mark == "unknown"
        else replace(fact, mark="inferred", source=f"like {model.provider}: {fact.source}")
        for fact in facts
    )


def _model(name: str, declared: _Provider, known: Mapping[str, Dialect]) -> JsonDialect | V1Dialect | ScrapelessDialect:
    """What the declaration begins with."""
    like = declared.like or (name if name in known else None)
    if like is not None and declared.api is not None:
        raise BadArgumentError(f"[{name}] api: is that of {like}; leave it out")
    if like is not None:
        model = known.get(like)
        if not isinstance(model, JsonDialect | V1Dialect | ScrapelessDialect):
            raise BadArgumentError(f"[{name}] like: expected one of {', '.join(sorted(known))}")
        return model
    match declared.api:
        case "json" | "none":
            return JsonDialect(
                provider=name, base_url=None, callback=None, polls=_POLLS, has_api=declared.api == "json"
            )
        case "v1":
            return V1Dialect(provider=name, base_url=None, callback=None, polls=_POLLS)
        case None:
            raise BadArgumentError(f"[{name}] expected like, or api: json, v1 or none")


def _callback(declared: _Callback | Literal[False], model: CallbackRule | None) -> CallbackRule | None:
    if declared is False:
        return None
    given = declared.given()
    if declared.signature is not None:
        given["signature"] = SignatureRule(**declared.signature.model_dump())
    return replace(model or CallbackRule(task_id="inferred"), **given)


def _polls(name: str, plan: PollPlan) -> PollPlan:
    if max(plan.first_after_seconds, plan.first_after_callback_seconds, plan.interval_seconds) >= plan.window_seconds:
        raise BadArgumentError(f"[{name}] polls.windowSeconds: expected more than the first waits and the interval")
    return plan


def _limits(model: KeyLimits, declared: _Limits) -> KeyLimits:
    given = declared.given()
    for name in ("submits", "errors"):
        rate = getattr(declared, name)
        if rate is not None:
            given[name] = Rate(rate.count, rate.seconds)
    return replace(model, **given)


def _code(declared: _Code) -> Code:
    about = declared.about or ("request" if declared.reaction in _PASSING else "task")
    return Code(Reaction(declared.reaction), about, declared.pause_seconds, declared.is_ban)


def _said(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part)[:80] for part in detail["loc"] if part not in ("_Callback", "literal[False]"))
    if detail["type"] == "extra_forbidden":
        return f"{path}: there is no such field"
    if path == "callback":
        return "callback: expected a table, or false for none"
    return f"{path}: {detail['msg'].removeprefix('Value error, ')}"
