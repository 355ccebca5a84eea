"""The fields of the TOML format for providers, with their types and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from client.providers.facts import Mark
from client.providers.rules import CallbackShape, IdType

__all__ = [
    "PASSING_REACTIONS",
    "CallbackTable",
    "CodeTable",
    "FactTable",
    "LimitsTable",
    "ProviderTable",
    "ReportTable",
    "SharedFactsTable",
    "describe_error",
]

PASSING_REACTIONS = ("wait", "slow")
"""The reactions to errors of the request. None of them ends a task."""

_BRANCHES = ("CallbackTable", "literal[False]", "constrained-str", "tuple[ReportTable, ...]")
_URL = r"^https?://[^\s/?#@]+[^\s?#@]*$"
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class Table(BaseModel):
    """A table of the file. Its keys are camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)

    def given(self) -> dict[str, Any]:
        """Return the values of the file, by the dialect's names for them."""
        return {name: value for name, value in self if name in self.model_fields_set}


class RateTable(Table):
    """A number of requests within a number of seconds."""

    count: Count
    seconds: Seconds


class PollsTable(Table):
    """The changes to a `PollPlan`."""

    first_after_seconds: Seconds = 1
    first_after_callback_seconds: Seconds = 1
    interval_seconds: Seconds = 1
    max_polls: Count = 1
    window_seconds: Seconds = 1
    grace_seconds: Seconds = 1


class LimitsTable(Table):
    """The changes to `KeyLimits`."""

    requests_per_second: Annotated[float, Field(gt=0, le=10_000)] = 1
    submits: RateTable | None = None
    errors: RateTable | None = None
    polls_for_each: Count | None = None
    polls_for_all: Annotated[int, Field(ge=0)] = 0


class SignatureTable(Table):
    """A `SignatureRule`."""

    headers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=5, strict=False)]
    is_rewritten: bool = False


class CallbackTable(Table):
    """The changes to a `CallbackRule`."""

    methods: Annotated[frozenset[Literal["GET", "POST"]], Field(min_length=1, strict=False)] = frozenset({"POST"})
    task_id: Literal["documented", "observed", "inferred", "missing"] = "inferred"
    signature: SignatureTable | None = None
    shape: CallbackShape = "result"
    id_field: Name = "id"
    code_field: Name = "code"
    status_field: Name | None = None
    is_account_wide: bool = False


class CodeTable(Table):
    """The meaning of one error code."""

    reaction: Literal["wait", "slow", "again", "change", "stop"]
    about: Literal["task", "key", "balance", "request", "id", "state"] | None = None
    pause_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    is_ban: bool = False

    @model_validator(mode="after")
    def _check_about(self) -> CodeTable:
        if self.reaction in PASSING_REACTIONS and self.about == "task":
            raise ValueError(f"about: an error about the task ends it, which {self.reaction!r} does not")
        return self


class ReportTable(Table):
    """A `ReportRule`."""

    name: Name
    is_good: bool
    types: Annotated[tuple[Name, ...], Field(strict=False)] = ()


class FactTable(Table):
    """A `Fact`."""

    about: Name
    known: Annotated[str, Field(min_length=1, max_length=300)]
    mark: Mark
    source: Annotated[str, Field(max_length=300)] = ""


class SharedFactsTable(Table):
    """Facts about several providers, with a heading and a text for the generated page."""

    title: Name
    text: str
    facts: Annotated[tuple[FactTable, ...], Field(strict=False)]


class ProviderTable(Table):
    """A provider. `factsOf` names shared facts, or providers with facts true for this one as well."""

    title: Name | None = None
    like: str | None = None
    api: Literal["json", "v1", "scrapeless", "none"] | None = None
    base_url: Annotated[str, Field(pattern=_URL, max_length=500)] | Literal[False] | None = None
    callback: CallbackTable | Literal[False] | None = None
    polls: PollsTable = PollsTable()
    limits: LimitsTable = LimitsTable()
    create_seconds: Seconds | None = None
    answer_life_seconds: Seconds | None = None
    has_app_id: bool = False
    id_type: IdType = "text"
    pending_error_ids: Annotated[frozenset[int], Field(strict=False)] = frozenset()
    codes: dict[Name, CodeTable] = Field(default_factory=dict)
    solutions: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]] = Field(default_factory=dict)
    reports: Annotated[tuple[ReportTable, ...], Field(strict=False)] | Literal[False] = ()
    facts: Annotated[tuple[FactTable, ...], Field(strict=False)] = ()
    facts_of: Annotated[tuple[Name, ...], Field(strict=False)] = ()


def describe_error(error: ValidationError) -> str:
    """Return the path and the message of the first error. The branches of a union are no part of the path."""
    detail = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part)[:80] for part in detail["loc"] if part not in _BRANCHES)
    if detail["type"] == "extra_forbidden":
        return f"{path}: there is no such field"
    if path == "callback":
        return "callback: expected a table, or false for none"
    return f"{path}: {detail['msg'].removeprefix('Value error, ')}"
