"""Counts of this process since its start, in the format of Prometheus.

Labels are bounded: known providers, verdicts, statuses and sources of the contract, and a few error codes. They never
hold ids, keys or other text of strangers. Callbacks are counted after their acknowledgement, in dictionaries. Their
counts reach the counters while `/metrics` is rendered.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest

from client.protocol.filters import CANARY
from client.providers import Dialect
from client.version import VERSION
from receiver.domain.records import SECOND, Outcome, TaskRecord, WaitingTasks
from receiver.domain.verdicts import VERDICTS

__all__ = ["CONTENT_TYPE", "Metrics", "Moment"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
"""The content type of `Metrics.rendered`."""

UNKNOWN = "unknown"
"""The label of a request with an unknown provider in its URL."""

_LATENCY_SECONDS = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
_PREFIX = "callback_receiver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The current state, read when `/metrics` is rendered."""

    waiting: Sequence[WaitingTasks]
    waiters: int
    streams: int
    queued: int
    is_failing: bool
    now: int
    connections: int = 0
    idle_connections: int = 0
    is_overloaded: bool = False


class Metrics:
    """All counters of a receiver, with a registry of their own: one process may hold several receivers."""

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self._dialects = dialects
        self._registry = CollectorRegistry()
        self._verdicts: dict[tuple[str, str], Counter] = {}
        self._by_provider: dict[str, _OfProvider] = {}
        # Counts of every callback, until they are rendered. A counter itself takes five times as long.
        self._pending: defaultdict[Counter, int] = defaultdict(int)
        self._last_callbacks: dict[str, int] = {}
        ProcessCollector(registry=self._registry)
        Info(f"{_PREFIX}_build", "The version of this program.", registry=self._registry).info({"version": VERSION})
        counter, gauge = self._counter, self._gauge
        self._deliveries = counter("deliveries", "Callbacks stored, by verdict.", "provider", "verdict")
        self._refused = counter("refused", "Callbacks refused without a verdict, by status.", "provider", "status")
        self._outcomes = counter("outcomes", "Outcomes by source and status.", "provider", "source", "status")
        self._polled = counter(
            "polled_answers", "Answers from a poll before any callback to the URL of the task.", "provider"
        )
        self._late = counter(
            "late_callbacks", "Polled answers with a later callback; the callbacks of the others are lost.", "provider"
        )
        self._stale = counter("stale_answers", "Answers fetched by id after their validUntil.", "provider")
        self._polls = counter("polls", "Polls used by ended tasks of providers with a limit.", "provider")
        self._allowed = counter("polls_allowed", "Polls allowed for the same tasks.", "provider")
        self._own_polls = counter(
            "own_polls",
            "Polls of the receiver itself: sent, failed, doubled after an interruption, contradicted a callback.",
            "provider",
            "what",
        )
        self._latency = Histogram(
            f"{_PREFIX}_callback_latency_seconds",
            "From the answer of createTask to the callback, if it ended the task or a poll confirmed it.",
            ("provider",),
            buckets=_LATENCY_SECONDS,
            registry=self._registry,
        )
        self._unlisted = counter(
            "unlisted_codes",
            "Error codes missing from all lists: at most 20 names of a provider, then other.",
            "provider",
            "code",
        )
        self._commits = counter("commits", "Transactions committed by the store.")
        self._commands = counter("commands", "Commands in these transactions.")
        self._waiting = gauge("waiting_tasks", "Tasks without an outcome; of very many, the first to end.", "provider")
        self._overdue = gauge(
            "oldest_overdue_seconds", "Delay of the earliest poll still to be made, in seconds.", "provider"
        )
        self._silence = gauge(
            "callback_silence_seconds",
            "Time for which tasks with a callback URL wait and no callback came; absent without such a task.",
            "provider",
        )
        self._waiters = gauge("waiters", "Requests waiting now.")
        self._streams = gauge("streams", "Open websockets and streams of server-sent events.")
        self._connections = gauge("connections", "Open connections; 0 for a mounted receiver.")
        self._idle_connections = gauge("idle_connections", "Open connections without a request.")
        self._attempts = counter(
            "failed_attempts",
            "Requests with a wrong API key or none: delayed (401), or refused at once (429).",
            "answer",
        )
        self._connections_closed = counter(
            "connections_closed",
            "Connections closed by reason: full (too many were open), address (too many of one address), silent "
            "(no request came), head (a head too long or too slow), chunks (a body in chunks of a few bytes).",
            "reason",
        )
        self._requests_limited = counter(
            "requests_limited",
            "Requests refused by a limit: address (without a valid key or token), key, room (too many at once).",
            "by",
        )
        self._balance = gauge("balance", "Balance of the receiver's own account when last read.", "provider")
        self._balance_low = gauge("balance_low", "Balance below which it counts as low.", "provider")
        self._notices = counter("notices", "Notices to each service: sent, or lost after several tries.", "what")
        self._canary_seconds = gauge(
            "canary_seconds",
            "Last callback of the receiver to itself, by stage: dns, connect, tls, answer, committed, frame.",
            "stage",
        )
        self._canary_runs = counter("canary_runs", "Callbacks of the receiver to itself: ok, or the stage.", "result")
        self._canary_failing = gauge("canary_failing", "1 if the last callback of the receiver to itself failed.")
        self._queued = gauge("store_queue", "Commands waiting to be stored.")
        self._failing = gauge("store_failing", "1 while the store cannot write, or is too slow for callbacks.")
        self._overloaded = gauge("overloaded", "1 while reads are refused, so that callbacks have the time.")

    def delivered(self, provider: str, verdict: str, task: TaskRecord | None) -> None:
        """Count a stored callback."""
        counted = self._verdicts.get((provider, verdict))
        if counted is None:
            counted = self._verdicts[provider, verdict] = self._deliveries.labels(provider, verdict)
        self._pending[counted] += 1
        self._last_callbacks[provider] = time.time_ns()
        if VERDICTS[verdict].is_late and task is not None and task.deliveries == 1 and _is_polled(task):
            self._late.labels(provider).inc()

    def polled(self, provider: str, what: str) -> None:
        """Count a poll of the receiver: "sent", "failed" (it brought nothing), "contradicted" (a callback).

        "doubled": a crash or a pause interrupted a poll, sent or not, and its task is polled once more.
        """
        self._own_polls.labels(provider, what).inc()

    def unlisted(self, provider: str, code: str) -> None:
        """Count an unlisted code; `code` is one of few names (see `client.provider_api.unlisted`)."""
        self._unlisted.labels(provider, code).inc()

    def refused(self, provider: str, status: int) -> None:
        """Count a callback refused without a verdict; `provider` is the name in its URL.

        Refused callbacks of the receiver itself count as its canary's failures.
        """
        if provider == CANARY and status != 404:
            return
        self._refused.labels(provider if provider in self._dialects else UNKNOWN, str(status)).inc()

    def attempted(self, answer: str) -> None:
        """Count a request with a wrong API key or none: "delayed" or "refused"."""
        self._attempts.labels(answer).inc()

    def connection_closed(self, reason: str) -> None:
        """Count a connection closed by the receiver: "full", "address", "silent", "head" or "chunks"."""
        self._connections_closed.labels(reason).inc()

    def limited(self, by: str) -> None:
        """Count a request refused by a limit: that of its "address", of its "key", or of the "room" for all."""
        self._requests_limited.labels(by).inc()

    def balance(self, provider: str, left: float, low: float) -> None:
        """Show the balance of an account, and the limit below which it is low."""
        self._balance.labels(provider).set(left)
        self._balance_low.labels(provider).set(low)

    def noticed(self, what: str) -> None:
        """Count a notice that was "sent" to a service, or "lost"."""
        self._notices.labels(what).inc()

    def canary(self, seconds: Mapping[str, float], failed: str | None) -> None:
        """Count a callback of the receiver to itself, with the times of its stages and the stage that failed."""
        self._canary_seconds.clear()
        for stage, duration in seconds.items():
            self._canary_seconds.labels(stage).set(duration)
        self._canary_runs.labels(failed or "ok").inc()
        self._canary_failing.set(failed is not None)

    def fetched(self, task: TaskRecord, now: int) -> None:
        """Count a task fetched by its id, if its answer is stale."""
        outcome = task.outcome
        if outcome is not None and outcome.valid_until is not None and outcome.valid_until < now:
            self._stale.labels(task.provider).inc()

    def committed(self, commands: int, ended: Sequence[TaskRecord]) -> None:
        """Count a committed transaction, its number of commands, and the outcomes of the tasks that it ended."""
        self._commits.inc()
        self._commands.inc(commands)
        for task in ended:
            if task.outcome is not None and task.provider != CANARY:
                self._ended(task, task.outcome)

    def rendered(self, moment: Moment) -> bytes:
        """Return all counts as text."""
        for counted, count in self._pending.items():
            counted.inc(count)
        self._pending.clear()
        self._waiting.clear()
        self._overdue.clear()
        self._silence.clear()
        for waiting in moment.waiting:
            due = moment.now if waiting.oldest_due is None else waiting.oldest_due
            overdue = max(0, moment.now - due) / SECOND
            self._waiting.labels(waiting.provider).set(waiting.tasks)
            self._overdue.labels(waiting.provider).set(overdue)
            if waiting.called_since is not None:
                since = max(waiting.called_since, self._last_callbacks.get(waiting.provider, 0) // 1000)
                self._silence.labels(waiting.provider).set(max(0, moment.now - since) / SECOND)
        self._waiters.set(moment.waiters)
        self._streams.set(moment.streams)
        self._connections.set(moment.connections)
        self._idle_connections.set(moment.idle_connections)
        self._queued.set(moment.queued)
        self._failing.set(moment.is_failing)
        self._overloaded.set(moment.is_overloaded)
        return generate_latest(self._registry)

    def _ended(self, task: TaskRecord, outcome: Outcome) -> None:
        counted = self._by_provider.get(task.provider)
        if counted is None:
            counted = self._by_provider[task.provider] = self._of_provider(task.provider)
        kind = (outcome.source, outcome.status)
        outcomes = counted.outcomes.get(kind)
        if outcomes is None:
            outcomes = counted.outcomes[kind] = self._outcomes.labels(task.provider, *kind)
        self._pending[outcomes] += 1
        # A callback held back for confirmation arrived at the time of its hint.
        came_at = task.hinted_at if outcome.trust == "confirmed" else outcome.finished_at
        is_called_back = outcome.source == "callback" or outcome.trust == "confirmed"
        # Nobody waited for a task made by a delivery.
        if is_called_back and came_at is not None and task.created_by is not None:
            counted.latency.observe((came_at - task.counts_from) / SECOND)
        elif _is_polled(task):
            counted.polled.inc()
        # If the outcome replaces one of ours, its polls are counted already.
        if counted.max_polls is not None and outcome.supersedes is None:
            self._pending[counted.allowed] += counted.max_polls
            if task.polls:
                counted.polls.inc(task.polls)

    def _of_provider(self, provider: str) -> _OfProvider:
        dialect = self._dialects.get(provider)
        return _OfProvider(
            max_polls=None if dialect is None else dialect.polls.max_polls,
            latency=self._latency.labels(provider),
            polled=self._polled.labels(provider),
            polls=self._polls.labels(provider),
            allowed=self._allowed.labels(provider),
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", about, labels, registry=self._registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", about, labels, registry=self._registry)


def _is_polled(task: TaskRecord) -> bool:
    """Return True if a poll alone brought the answer of a task with a callback URL. No callback asked for the poll."""
    outcome = task.outcome
    is_answer = outcome is not None and outcome.source == "poll" and not outcome.is_provisional
    return is_answer and task.has_url and task.hinted_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfProvider:
    """The counters of one provider. Looking them up by their labels takes longer than counting."""

    max_polls: int | None
    latency: Histogram
    polled: Counter
    polls: Counter
    allowed: Counter
    outcomes: dict[tuple[str, str], Counter] = field(default_factory=dict)
