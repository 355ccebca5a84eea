"""`callback-receiver providers`: the facts about each provider, with their sources and certainty."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from client.output import show, show_json
from client.providers import CallbackRule, Dialect, dialect_named
from receiver.dialects import known_dialects
from receiver.domain.records import time_view
from receiver.domain.shapes import ShapeRecord, shape_text
from receiver.settings import Settings, load_settings
from receiver.storage.opening import open_for_reading
from receiver.storage.sqlite.reader import read_shapes

__all__ = ["called_back", "providers", "submitted_through"]


@click.command(epilog="Exit codes: 0 done, 2 refused.")
@click.argument("name", required=False)
@click.option("--json", "is_json", is_flag=True, help="One line of JSON for each provider.")
@click.option("--observed", "is_observed", is_flag=True, help="Also show the shapes of the callbacks received here.")
def providers(name: str | None, *, is_json: bool, is_observed: bool) -> None:
    """List the providers, or all facts about one.

    With NAME, show each fact with its source and its certainty. Documented: the provider says so. Observed: seen in
    code or in captured traffic. Inferred: concluded from those. Unknown: searched for and not found. The list includes
    the providers of RECEIVER_PROVIDERS_FILE.

    The shape of a callback is its method, its content type, and the names and types of its fields. It holds no values,
    so it can be posted in an issue. It is read from the database, whether the receiver runs or not.
    """
    settings = load_settings(Path.cwd(), serves=False)
    dialects = known_dialects(settings)
    chosen = dialects if name is None else {name: dialect_named(name, dialects)}
    seen = _observed(settings, chosen) if is_observed else {}
    for dialect in chosen.values():
        shapes = seen.get(dialect.provider)
        if is_json:
            show_json(json.dumps(_as_json(dialect, shapes), ensure_ascii=False))
        else:
            for line in _lines(dialect, shapes) if name is not None else _short_lines(dialect, shapes):
                for part in line.split("\n"):
                    show(part)


def submitted_through(dialect: Dialect) -> str:
    """Return the way to submit tasks, in a few words."""
    if not dialect.has_api:
        return "not known"
    how = dialect.family.requests
    return how if dialect.base_url else f"{how}, at an address that you give"


def called_back(rule: CallbackRule | None) -> str:
    """Return the form of the callbacks, in a few words."""
    if rule is None:
        return "no callback: polled"
    methods = " or ".join(sorted(rule.methods))
    shapes = {"result": "JSON: the getTaskResult answer", "code": "form: id and answer"}
    if rule.shape == "code" and "POST" not in rule.methods:
        shapes["code"] = "query: id and answer"
    signed = ", signed" if rule.signature is not None else ""
    no_id = ", perhaps without taskId" if rule.task_id == "missing" else ""
    one_address = ", at one address of the account" if rule.is_account_wide else ""
    return f"{methods}, {shapes.get(rule.shape, 'JSON: an envelope of its own')}{no_id}{signed}{one_address}"


def _observed(settings: Settings, providers: Iterable[str]) -> Mapping[str, Sequence[ShapeRecord]]:
    with open_for_reading(settings) as connection:
        return {provider: read_shapes(connection, provider) for provider in providers}


def _short_lines(dialect: Dialect, shapes: Sequence[ShapeRecord] | None) -> Iterator[str]:
    yield f"{dialect.provider:16} {submitted_through(dialect):42} {called_back(dialect.callback)}"
    for record in shapes or ():
        yield indent(shape_text(record), "    ")


def _lines(dialect: Dialect, shapes: Sequence[ShapeRecord] | None) -> Iterator[str]:
    for about, value in _summary(dialect).items():
        if value is not None:
            yield f"{about:20} {value}"
    for fact in dialect.facts:
        yield ""
        yield f"{fact.about}: {fact.known}"
        yield f"    {fact.mark}: {fact.source}"
    if shapes is not None:
        yield ""
        yield "callbacks received here:" if shapes else "callbacks received here: none"
        for record in shapes:
            yield indent(shape_text(record), "    ")


def _summary(dialect: Dialect) -> Mapping[str, Any]:
    plan, limits = dialect.polls, dialect.key_limits
    submits = None if limits.submits is None else f"{limits.submits.count} in {limits.submits.seconds:g} s"
    errors = None if limits.errors is None else f"{limits.errors.count} in {limits.errors.seconds:g} s"
    most = "" if plan.max_polls is None else f", at most {plan.max_polls}"
    return {
        "provider": dialect.provider,
        "endpoint": dialect.base_url or "has to be given",
        "submitted through": submitted_through(dialect),
        "calls back": called_back(dialect.callback),
        "first poll": f"{plan.first_after_seconds:g} s, behind a callback {plan.first_after_callback_seconds:g} s",
        "polls": f"every {plan.interval_seconds:g} s, for {plan.window_seconds:g} s{most}",
        "submits allowed": submits,
        "errors before a ban": errors,
        "answers live": None if dialect.answer_life_seconds is None else f"{dialect.answer_life_seconds:g} s",
    }


def _as_json(dialect: Dialect, shapes: Sequence[ShapeRecord] | None) -> dict[str, Any]:
    facts = [
        {"about": fact.about, "known": fact.known, "mark": fact.mark, "source": fact.source} for fact in dialect.facts
    ]
    known = {**{name: value for name, value in _summary(dialect).items() if value is not None}, "facts": facts}
    return known if shapes is None else {**known, "observed": [_shape_as_json(record) for record in shapes]}


def _shape_as_json(record: ShapeRecord) -> dict[str, Any]:
    return {
        "method": record.shape.method,
        "contentType": record.shape.content_type,
        "fields": record.shape.fields,
        "callbacks": record.callbacks,
        "readable": record.readable,
        "firstSeen": time_view(record.first_seen).isoformat(timespec="seconds"),
        "lastSeen": time_view(record.last_seen).isoformat(timespec="seconds"),
    }
