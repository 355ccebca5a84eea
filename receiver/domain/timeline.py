"""The timeline of one task: its steps and the event it waits for, in words and in the JSON of the contract. Pure.

It never holds tokens, solutions, keys or bodies. A stranger's text, such as an id, is shortened and quoted.
"""

from __future__ import annotations

from datetime import UTC, datetime

from client.protocol.models import PROVISIONAL, Step, TaskTimeline, Waiting
from client.providers import PollPlan
from receiver.domain.records import (
    CUT_OFF,
    IGNORED,
    SECOND,
    History,
    Outcome,
    PollRecord,
    StoredDelivery,
    TaskRecord,
    time_view,
)
from receiver.domain.verdicts import VERDICTS

__all__ = ["timeline_of"]

_LONGEST_QUOTED = 100
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)

_WHY_PROVISIONAL = {
    "deadline": "the deadline came first",
    "poll": "several polls brought this unlisted code",
    "submit": "no task was made, by all that is known",
}


def timeline_of(
    task: TaskRecord, history: History, plan: PollPlan | None, *, now: int, wakes: int | None = None
) -> TaskTimeline:
    """Return the steps of a task, oldest first, and the event it waits for.

    `plan` is None if its provider is not known any more.
    """
    steps = [
        *_bound_steps(task, history),
        *_reported_polls(task, history),
        *_outcome_steps(history.outcomes),
        *(_delivery_step(task, delivery) for delivery in history.deliveries),
        *(_poll_step(poll) for poll in history.polls),
        *_hint_steps(task),
    ]
    # A stable sort: steps of the same time stay in this order, an outcome before the callbacks that only repeat it.
    steps.sort(key=lambda step: step.at or _BEFORE_ALL)
    is_settled = task.outcome is not None and not task.is_disputed
    return TaskTimeline(
        ref=task.ref,
        provider=task.provider,
        task_id=task.task_id,
        status="processing" if task.outcome is None else task.outcome.status,
        disputed=task.is_disputed,
        deadline_at=time_view(task.deadline_at),
        steps=(_registered_step(task), *steps),
        deliveries=task.deliveries,
        polls=task.polls,
        wakes=wakes,
        waiting=None if is_settled else _waiting(task, plan, now),
    )


def _registered_step(task: TaskRecord) -> Step:
    url = "a callback URL of its own" if task.has_url else "no callback URL of its own"
    origin = task.created_by or ("task URL" if task.standing_id is None else "standing URL")
    if task.standing_id is not None:
        text = f"made by a delivery on the standing URL {task.standing_id}"
    elif task.created_by is None:
        text = "made anew by a delivery on its own URL, whose record was lost"
    elif task.open_to_standing and not task.has_url:
        text = f"registered by the key {task.created_by} with its taskId; standing URLs may end it"
    else:
        text = f"registered by the key {task.created_by}, with {url}"
    return Step(at=time_view(task.created_at), happened="task.registered", origin=origin, text=text)


def _bound_steps(task: TaskRecord, history: History) -> list[Step]:
    if task.id_text is None:
        return []
    at, quoted = task.bound_at, _quoted(task.id_text)
    if task.bound_by == "callback":
        # Tasks of an older schema have no time of their own for it.
        with_id = (delivery.received_at for delivery in history.deliveries if delivery.id_text == task.id_text)
        at = next(with_id, None) if at is None else at
        origin, text = "callback", f"taskId {quoted}, by a callback; createTask's answer is unknown"
    else:
        origin, text = "createTask", f"taskId {quoted}, as createTask gave it"
    return [Step(at=None if at is None else time_view(at), happened="task.bound", origin=origin, text=text)]


def _reported_polls(task: TaskRecord, history: History) -> list[Step]:
    """Return the step for polls without a record: only their number is known."""
    others = task.polls - len(history.polls)
    if others <= 0:
        return []
    origin = "not shown: made by a client, or no longer kept" if history.polls else "made by a client, as it reported"
    return [Step(at=None, happened="polls.counted", origin="client", text=f"{others} polls {origin}")]


def _delivery_step(task: TaskRecord, delivery: StoredDelivery) -> Step:
    where = "task URL" if delivery.standing_id is None else "standing URL"
    return Step(
        at=time_view(delivery.received_at),
        happened="callback.stored",
        origin=where,
        verdict=delivery.verdict,
        text=f"a {delivery.method} callback on the {where}: {_explained(task, delivery)}",
    )


def _explained(task: TaskRecord, delivery: StoredDelivery) -> str:
    """Return the verdict on a delivery, in words."""
    row = VERDICTS.get(delivery.verdict)
    if row is None:
        # A newer version stored it.
        return delivery.verdict
    text = row.timeline.format(
        id="no taskId" if delivery.id_text is None else f"the taskId {_quoted(delivery.id_text)}",
        size=delivery.size,
        content="no content type" if delivery.content_type is None else _quoted(delivery.content_type),
        provider=task.provider,
    )
    if delivery.verdict == "held" and task.held_until is None:
        text = "it was held back to be confirmed, and meanwhile the answer came by a poll or a report"
    elif delivery.verdict == "mismatched" and delivery.standing_id is not None and not task.open_to_standing:
        text = "the task has a URL of its own, and ids can be guessed; it was taken as a hint"
    return f"refused ({row.status}): {text}" if row.is_refused else text


def _poll_step(poll: PollRecord) -> Step:
    if poll.summary == CUT_OFF:
        text = (
            "the receiver was killed, or held up, before it stored an answer; the poll counts, as it may have been sent"
        )
        return Step(at=time_view(poll.started_at), happened="poll.cutOff", origin="receiver", text=text)
    seconds = max(0, poll.ended_at - poll.started_at) / SECOND
    if poll.summary.startswith(IGNORED):
        answer = _shown(poll.summary.removeprefix(IGNORED))
        text = f"the receiver asked for a taskId that createTask replaced meanwhile; the answer was ignored: {answer}"
        return Step(at=time_view(poll.started_at), happened="poll.completed", origin="receiver", text=text)
    text = f"the receiver asked {'' if seconds < 1 else f'for {seconds:.1f} s '}and was told: {_shown(poll.summary)}"
    return Step(at=time_view(poll.started_at), happened="poll.completed", origin="receiver", text=text)


def _hint_steps(task: TaskRecord) -> list[Step]:
    if task.hinted_at is None:
        return []
    text = "something came that could not be taken as the answer: the next poll became due at once"
    return [Step(at=time_view(task.hinted_at), happened="task.hinted", origin="receiver", text=text)]


def _outcome_steps(outcomes: tuple[Outcome, ...]) -> list[Step]:
    replaced: list[Outcome | None] = [None, *outcomes]
    return [_outcome_step(outcome, before) for outcome, before in zip(outcomes, replaced, strict=False)]


def _outcome_step(outcome: Outcome, before: Outcome | None) -> Step:
    status = "ready" if outcome.status == "ready" else f"failed with {_shown(outcome.error_code or '')}"
    text = f"{status}, by {outcome.source}"
    if outcome.is_provisional:
        reason = _WHY_PROVISIONAL.get(outcome.source, "it is of the receiver")
        text += f": {reason}; an answer of the provider would still replace this"
    if before is not None:
        text += f"; it replaced {_shown(before.error_code or '')}"
    return Step(
        at=time_view(outcome.finished_at),
        happened="outcome.stored",
        origin="receiver" if outcome.source == "deadline" else _origin_of(outcome),
        status=outcome.status,
        source=outcome.source,
        trust=outcome.trust,
        error_code=outcome.error_code,
        supersedes=None if before is None else before.error_code,
        text=text,
    )


def _origin_of(outcome: Outcome) -> str:
    """Return the origin of an outcome of the provider: a client's report, a poll of ours, or a callback."""
    origins = {"reported": "client", "polled": "receiver", "confirmed": "receiver", PROVISIONAL: "receiver"}
    return origins.get(outcome.trust, "callback")


def _waiting(task: TaskRecord, plan: PollPlan | None, now: int) -> Waiting:
    polled_by = "receiver" if task.is_polled_here else "client"
    left = None if plan is None or plan.max_polls is None else max(0, plan.max_polls - task.polls)
    can_poll = task.task_id is not None and left != 0
    why = _why_then(task, plan, left)
    leased_until = task.leased_until if task.leased_until is not None and task.leased_until > now else None
    return Waiting(
        polled_by=polled_by,
        next_poll_at=time_view(task.next_poll_at) if can_poll and task.next_poll_at is not None else None,
        why_then=why,
        polls_left=left,
        leased_until=None if leased_until is None else time_view(leased_until),
        text="; ".join((_waits_for(task), _next_poll(task, now, can_poll=can_poll), why, _until(task, now))),
    )


def _waits_for(task: TaskRecord) -> str:
    if task.is_disputed:
        return "an outcome stands, but createTask named another taskId than the callback: a poll has to settle it"
    if task.held_until is not None:
        return "a callback came, and is held back for a few seconds until the provider has confirmed it"
    if task.has_url:
        on_standing = ", or on a standing URL," if task.open_to_standing else ","
        return f"it waits for a callback on its own URL{on_standing} or for a poll"
    if task.open_to_standing:
        return "it waits for a callback on a standing URL, or for a poll"
    return "it has no callback URL (no RECEIVER_PUBLIC_URL, or no callback of the provider): only a poll can end it"


def _next_poll(task: TaskRecord, now: int, *, can_poll: bool) -> str:
    poller = "this receiver" if task.is_polled_here else "its client, if it still runs,"
    if not can_poll or task.next_poll_at is None:
        return "no poll is due"
    if task.leased_until is not None and task.leased_until > now:
        return f"{poller} is polling it now"
    seconds = (task.next_poll_at - now) / SECOND
    if seconds > 0:
        return f"{poller} polls it next in {seconds:.0f} s"
    return f"{poller} should have polled it {-seconds:.0f} s ago"


def _why_then(task: TaskRecord, plan: PollPlan | None, left: int | None) -> str:
    if task.task_id is None:
        return "its taskId is not known yet, so nobody can ask for it"
    if left == 0:
        return f"all {task.polls} polls that the provider allows are used up: only a callback can end it"
    if task.next_poll_at is None:
        if plan is not None and task.polled_at is not None:
            return f"no further poll fits into the {plan.window_seconds:g} s for which the provider keeps an answer"
        return "no poll is planned"
    if task.next_poll_at == task.hinted_at:
        return "a hint made it due at once"
    if task.next_poll_at == task.poll_after:
        return "that is when a callback is overdue" if task.has_url else "that is the provider's first useful moment"
    if plan is not None and task.polled_at is not None:
        planned = task.polled_at + round(plan.interval_seconds * SECOND)
        if task.next_poll_at <= planned + SECOND:
            return f"the provider wants {plan.interval_seconds:g} s between two polls"
        if task.next_poll_at >= task.counts_from + round(plan.window_seconds * SECOND):
            return "a last poll, behind the time for which the provider keeps an answer, tells if it still knows the id"
        return "the waits grow with each poll; a pause of the key, or others to poll first, make one longer"
    return "the plan of its provider says so"


def _until(task: TaskRecord, now: int) -> str:
    seconds = (task.deadline_at - now) / SECOND
    return f"it is given up in {seconds:.0f} s" if seconds > 0 else "its deadline has passed: it is given up any moment"


def _shown(text: str) -> str:
    """Return a provider's text as it is, unless a terminal would act on it."""
    return text[:_LONGEST_QUOTED] if text.isprintable() else _quoted(text)


def _quoted(text: str) -> str:
    """Return the text as Python writes it. Characters that a terminal cannot show are escaped."""
    return repr(text[:_LONGEST_QUOTED])
