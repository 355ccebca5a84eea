"""The TOML format for providers: one table for each provider, named after it.

Users declare their own providers in it, and `catalog.toml` declares the shipped ones.

    [myprovider]
    like = "capmonster"
    baseUrl = "https://api.example.com"

    [myprovider.polls]
    intervalSeconds = 5

`like` takes everything from a known provider. The other keys replace its values. A table with the name of a known
provider changes that provider. Pure: the bytes of the file are an argument.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from client.errors import BadArgumentError
from client.providers.codes import Code
from client.providers.dialect import Dialect, Family
from client.providers.facts import Fact
from client.providers.json_family import JSON_FAMILY
from client.providers.readings import Reaction
from client.providers.rules import CallbackRule, KeyLimits, PollPlan, Rate, ReportRule, SignatureRule
from client.providers.scrapeless_family import SCRAPELESS_FAMILY
from client.providers.tables import (
    PASSING_REACTIONS,
    CallbackTable,
    CodeTable,
    FactTable,
    LimitsTable,
    ProviderTable,
    ReportTable,
    SharedFactsTable,
    describe_error,
)
from client.providers.v1_family import V1_FAMILY

__all__ = ["read_catalog", "read_providers"]

_NAME = re.compile(r"[a-z0-9]{1,32}")
_SHARED_FACTS = "_families"
"""The table of the catalogue for facts about several providers. No provider can have this name."""
_FAMILIES: Mapping[str, Family] = {
    "json": JSON_FAMILY,
    "v1": V1_FAMILY,
    "scrapeless": SCRAPELESS_FAMILY,
    "none": JSON_FAMILY,
}
_POLLS = PollPlan(
    first_after_seconds=5.0,
    first_after_callback_seconds=35.0,
    interval_seconds=3.0,
    max_polls=None,
    window_seconds=300.0,
)


def read_providers(raw: bytes, dialects: Mapping[str, Dialect]) -> Mapping[str, Dialect]:
    """Return `dialects` with the providers of the file added or changed.

    Raises:
        BadArgumentError: the file is no TOML, or a table is wrong. The text names the table, the field and the expected
            value.
    """
    return _read_tables(_parse_toml(raw), dialects, {})


def read_catalog(raw: bytes) -> Mapping[str, Dialect]:
    """Return the shipped providers. Their file may also hold facts about several providers.

    Raises:
        BadArgumentError: see `read_providers`.
    """
    tables = _parse_toml(raw)
    shared = {name: _shared_facts(name, table) for name, table in tables.pop(_SHARED_FACTS, {}).items()}
    return _read_tables(tables, {}, shared)


def _parse_toml(raw: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadArgumentError(f"not TOML: {error}") from None


def _read_tables(
    tables: Mapping[str, Any], dialects: Mapping[str, Dialect], shared: Mapping[str, Sequence[Fact]]
) -> Mapping[str, Dialect]:
    merged = dict(dialects)
    for name, table in tables.items():
        merged[name] = _dialect(name, table, merged, shared)
    return MappingProxyType(merged)


def _shared_facts(name: str, table: Any) -> Sequence[Fact]:
    try:
        return _as_facts(SharedFactsTable.model_validate(table).facts)
    except ValidationError as error:
        raise BadArgumentError(f"[{_SHARED_FACTS}.{name}] {describe_error(error)}") from None


def _dialect(name: str, table: Any, dialects: Mapping[str, Dialect], shared: Mapping[str, Sequence[Fact]]) -> Dialect:
    if not _NAME.fullmatch(name):
        raise BadArgumentError(f"[{name[:80]}]: a provider's name has 1 to 32 of a-z and 0-9")
    if not isinstance(table, dict):
        raise BadArgumentError(f"{name}: expected a table, [{name}]")
    try:
        declared = ProviderTable.model_validate(table)
    except ValidationError as error:
        raise BadArgumentError(f"[{name}] {describe_error(error)}") from None
    model = _model(name, declared, dialects)
    callback = model.callback if declared.callback is None else _callback(declared.callback, model.callback)
    given = declared.model_fields_set
    return replace(
        model,
        provider=name,
        title=declared.title or (model.title if name == model.provider else name),
        base_url=model.base_url if declared.base_url is None else (declared.base_url or "").rstrip("/") or None,
        callback=callback,
        polls=_polls(name, replace(model.polls, **declared.polls.given())),
        key_limits=_limits(model.key_limits, declared.limits),
        create_seconds=declared.create_seconds or model.create_seconds,
        answer_life_seconds=declared.answer_life_seconds or model.answer_life_seconds,
        has_app_id=declared.has_app_id if "has_app_id" in given else model.has_app_id,
        id_type=declared.id_type if "id_type" in given else model.id_type,
        pending_error_ids=declared.pending_error_ids if "pending_error_ids" in given else model.pending_error_ids,
        codes=MappingProxyType({**model.codes, **{word: _code(code) for word, code in declared.codes.items()}}),
        solutions=MappingProxyType({**model.solutions, **declared.solutions}),
        reports=_reports(declared.reports, model.reports),
        facts=_facts(name, declared, dialects, shared) or _inferred_facts(name, declared, model),
    )


def _reports(declared: tuple[ReportTable, ...] | Literal[False], model: Sequence[ReportRule]) -> Sequence[ReportRule]:
    if declared is False:
        return ()
    return tuple(ReportRule(**rule.model_dump()) for rule in declared) or model


def _facts(
    name: str, declared: ProviderTable, dialects: Mapping[str, Dialect], shared: Mapping[str, Sequence[Fact]]
) -> tuple[Fact, ...]:
    """Return the provider's own facts, then the shared ones and those of other providers."""
    facts = list(_as_facts(declared.facts))
    for source in declared.facts_of:
        if source not in shared and source not in dialects:
            raise BadArgumentError(f"[{name}] factsOf: expected some of {', '.join(sorted({*shared, *dialects}))}")
        facts += shared[source] if source in shared else dialects[source].facts
    return tuple(facts)


def _as_facts(declared: Sequence[FactTable]) -> Sequence[Fact]:
    return [Fact(fact.about, fact.known, fact.mark, fact.source) for fact in declared]


def _inferred_facts(name: str, declared: ProviderTable, model: Dialect) -> tuple[Fact, ...]:
    """Return the facts about the model. For another provider like it, they are no more than inferred."""
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


def _model(name: str, declared: ProviderTable, dialects: Mapping[str, Dialect]) -> Dialect:
    """Return the dialect under the declaration: one of `dialects`, or an empty one of a family."""
    like = declared.like or (name if name in dialects else None)
    if like is not None and declared.api is not None:
        raise BadArgumentError(f"[{name}] api: is that of {like}; leave it out")
    if like is not None:
        if like not in dialects:
            raise BadArgumentError(f"[{name}] like: expected one of {', '.join(sorted(dialects))}")
        return dialects[like]
    if declared.api is None:
        raise BadArgumentError(f"[{name}] expected like, or api: json, v1, scrapeless or none")
    return Dialect(
        provider=name,
        base_url=None,
        callback=None,
        polls=_POLLS,
        family=_FAMILIES[declared.api],
        has_api=declared.api != "none",
    )


def _callback(declared: CallbackTable | Literal[False], model: CallbackRule | None) -> CallbackRule | None:
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


def _limits(model: KeyLimits, declared: LimitsTable) -> KeyLimits:
    given = declared.given()
    for name, rate in (("submits", declared.submits), ("errors", declared.errors)):
        if rate is not None:
            given[name] = Rate(rate.count, rate.seconds)
    return replace(model, **given)


def _code(declared: CodeTable) -> Code:
    about = declared.about or ("request" if declared.reaction in PASSING_REACTIONS else "task")
    return Code(Reaction(declared.reaction), about, declared.pause_seconds, declared.is_ban)
