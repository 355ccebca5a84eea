"""The numbers of each provider as `callback-receiver doctor` prints them: lines for eyes, values for machines. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from receiver.commands.doctor.findings import Facts
from receiver.domain.records import SECOND, RecentTasks

__all__ = ["number_lines", "number_values"]


def number_values(facts: Facts) -> dict[str, Any]:
    """For JSON: `providers` by name, those that were used lately, and why stale answers are not known (null: they are).

    The hour and the day are those of the registration of the tasks; stale answers count from the receiver's start.
    """
    waiting = {each.provider: each for each in facts.waiting}
    recent = [{each.provider: each for each in tasks} for tasks in (facts.hour, facts.day)]
    providers = {}
    for provider in sorted({*waiting, *recent[0], *recent[1]}):
        due = waiting[provider].oldest_due if provider in waiting else None
        hour, day = (_values(tasks.get(provider, RecentTasks(provider))) for tasks in recent)
        providers[provider] = {
            "waiting": waiting[provider].tasks if provider in waiting else 0,
            "oldestOverdueSeconds": None if due is None or due >= facts.now else (facts.now - due) / SECOND,
            "staleAnswers": facts.counted.stale(provider),
            "hour": hour,
            "day": day,
        }
    return {
        "providers": providers,
        "staleAnswersUnknown": None if facts.counted.by_provider is not None else facts.counted.reason,
    }


def number_lines(facts: Facts) -> Iterator[str]:
    """Yield the same for eyes, three lines for each provider; none where none was used."""
    told = number_values(facts)
    for provider, numbers in told["providers"].items():
        overdue, stale = numbers["oldestOverdueSeconds"], numbers["staleAnswers"]
        due = "no poll overdue" if overdue is None else f"a poll overdue for {overdue:.0f} s"
        known = "not known" if stale is None else stale
        yield f"{provider}: {numbers['waiting']} tasks wait, {due}; stale answers: {known}"
        for period in ("hour", "day"):
            yield f"  last {period:4}  {_line(numbers[period])}"
    if told["providers"] and told["staleAnswersUnknown"] is not None:
        yield f"stale answers are not known: {told['staleAnswersUnknown']}"


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


def _line(numbers: dict[str, Any]) -> str:
    answers, lost, latency = numbers["answersWithUrl"], numbers["lostCallbacks"], numbers["callbackLatency"]
    share = f" ({lost / answers:.0%})" if lost else ""
    refused = ", ".join(f"{count} {verdict}" for verdict, count in numbers["refused"].items())
    allowed = "" if numbers["pollsAllowed"] is None else f" of {numbers['pollsAllowed']} allowed"
    parts = [
        f"{numbers['ended']} tasks ended",
        f"of {answers} answers with a callback URL {lost} by a poll alone{share}",
        f"{numbers['lateCallbacks']} late",
        f"{numbers['duplicates']} duplicates",
        f"refused: {refused or 'none'}",
        f"polls: {numbers['polls']}{allowed}",
    ]
    if latency is not None:
        parts.append(f"callbacks after {latency['medianSeconds']:.1f} s, 95 % within {latency['p95Seconds']:.1f} s")
    return ", ".join(parts)
