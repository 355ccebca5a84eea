"""The figures of each provider in `callback-receiver doctor`: lines for people, values for machines. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from receiver.domain.records import SECOND, RecentTasks
from receiver.health.findings import Facts

__all__ = ["figure_lines", "figure_values"]


def figure_values(facts: Facts) -> dict[str, Any]:
    """Return the figures for JSON: `providers` by name, limited to providers in recent use.

    A task counts in the hour and the day of its registration.
    """
    waiting = {tasks.provider: tasks for tasks in facts.waiting}
    recent = [{tasks.provider: tasks for tasks in period} for period in (facts.hour, facts.day)]
    providers = {}
    for provider in sorted({*waiting, *recent[0], *recent[1]}):
        due = waiting[provider].oldest_due if provider in waiting else None
        hour, day = (_values(tasks.get(provider, RecentTasks(provider))) for tasks in recent)
        providers[provider] = {
            "waiting": waiting[provider].tasks if provider in waiting else 0,
            "oldestOverdueSeconds": None if due is None or due >= facts.now else (facts.now - due) / SECOND,
            "hour": hour,
            "day": day,
        }
    return {"providers": providers}


def figure_lines(facts: Facts) -> Iterator[str]:
    """Yield the same figures for people: three lines for each provider in recent use."""
    for provider, values in figure_values(facts)["providers"].items():
        overdue = values["oldestOverdueSeconds"]
        due = "no poll overdue" if overdue is None else f"a poll overdue for {overdue:.0f} s"
        yield f"{provider}: {values['waiting']} tasks wait, {due}"
        for period in ("hour", "day"):
            yield f"  last {period:4}  {_line(values[period])}"


def _values(tasks: RecentTasks) -> dict[str, Any]:
    latency, most = tasks.latency, tasks.most_polls
    return {
        "answersWithUrl": tasks.answered,
        "lostCallbacks": tasks.lost,
        "lateCallbacks": tasks.late,
        "duplicates": tasks.verdicts.get("duplicate", 0),
        "refused": dict(tasks.refused),
        "callbackLatency": None
        if latency is None
        else {"callbacks": latency.callbacks, "medianSeconds": latency.median, "p95Seconds": latency.p95},
        "ended": tasks.ended,
        "polls": tasks.polls,
        "pollsAllowed": None if most is None else most * tasks.ended,
    }


def _line(values: dict[str, Any]) -> str:
    answers, lost, latency = values["answersWithUrl"], values["lostCallbacks"], values["callbackLatency"]
    share = f" ({lost / answers:.0%})" if lost else ""
    refused = ", ".join(f"{count} {verdict}" for verdict, count in values["refused"].items())
    allowed = "" if values["pollsAllowed"] is None else f" of {values['pollsAllowed']} allowed"
    parts = [
        f"{values['ended']} tasks ended",
        f"of {answers} answers with a callback URL {lost} by a poll alone{share}",
        f"{values['lateCallbacks']} late",
        f"{values['duplicates']} duplicates",
        f"refused: {refused or 'none'}",
        f"polls: {values['polls']}{allowed}",
    ]
    if latency is not None:
        parts.append(f"callbacks after {latency['medianSeconds']:.1f} s, 95 % within {latency['p95Seconds']:.1f} s")
    return ", ".join(parts)
