"""The numbers of this process since it started, as Prometheus takes them.

Labels are bounded: providers that are known here, verdicts, statuses and sources of the contract, and a few error
codes; never an id, a key or what else a stranger wrote. On the way of a callback stand two dictionary look-ups and two
additions; the rest is counted after its acknowledgement, or when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest

from client.providers import Dialect
from client.version import VERSION
from receiver.domain.records import SECOND, Outcome, TaskRecord, WaitingTasks

__all__ = ["CONTENT_TYPE", "Metrics", "Moment"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
"""What `Metrics.rendered` is in."""

UNKNOWN = "unknown"
"""The provider of a request whose URL names none that is known."""

_LATENCY_SECONDS = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
_PREFIX = "callback_receiver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is so now, and is read when somebody asks."""

    waiting: Sequence[WaitingTasks]
    waiters: int
    streams: int
    queued: int
    is_failing: bool
    now: int
    connections: int = 0
    idle_connections: int = 0


class Metrics:
    """Counts what it is told. Each has a registry of its own, so that one process may hold several receivers."""

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self._dialects = dialects
        self._registry = CollectorRegistry()
        self._verdicts: dict[tuple[str, str], Counter] = {}
        self._by_provider: dict[str, _OfProvider] = {}
        ProcessCollector(registry=self._registry)
        Info(f"{_PREFIX}_build", "The version of this program.", registry=self._registry).info({"version": VERSION})
        counter, gauge = self._counter, self._gauge
        self._deliveries = counter("deliveries", "Callbacks that were stored, by verdict.", "provider", "verdict")
        self._refused = counter("refused", "Callbacks refused without a verdict, by status.", "provider", "status")
        self._outcomes = counter("outcomes", "Outcomes by road and status.", "provider", "source", "status")
        self._polled = counter(
            "polled_answers", "Answers that a poll brought where no callback had come to the task's URL.", "provider"
        )
        self._late = counter(
            "late_callbacks", "Those of them for which a callback came afterwards: the others got lost.", "provider"
        )
        self._stale = counter("stale_answers", "Answers that were fetched by id after their validUntil.", "provider")
        self._polls = counter("polls", "Polls used by tasks that ended, where a limit is known.", "provider")
        self._allowed = counter("polls_allowed", "Polls that those tasks were allowed.", "provider")
        self._own_polls = counter(
            "own_polls",
            "Polls of the receiver itself: sent, failed, doubled after one was cut off, contradicted a callback.",
            "provider",
            "what",
        )
        self._latency = Histogram(
            f"{_PREFIX}_callback_latency_seconds",
            "From createTask's answer to the callback that ended it, or that a poll confirmed.",
            ("provider",),
            buckets=_LATENCY_SECONDS,
            registry=self._registry,
        )
        self._unlisted = counter(
            "unlisted_codes",
            "Error codes that no list has: at most 20 names of a provider, then other.",
            "provider",
            "code",
        )
        self._commits = counter("commits", "Transactions of the store that were committed.")
        self._commands = counter("commands", "Commands in them.")
        self._waiting = gauge("waiting_tasks", "Tasks without an outcome; of very many, the first to end.", "provider")
        self._overdue = gauge(
            "oldest_overdue_seconds", "How long ago the first poll was due of those still to be made.", "provider"
        )
        self._waiters = gauge("waiters", "Requests that wait now.")
        self._streams = gauge("streams", "Websockets and streams of server-sent events that are open.")
        self._connections = gauge("connections", "Connections that are open; of a mounted receiver, 0.")
        self._idle_connections = gauge("idle_connections", "Those of them without a request.")
        self._connections_closed = counter(
            "connections_closed",
            "Connections without a request that were closed: full (too many were open), silent (no request came).",
            "reason",
        )
        self._queued = gauge("store_queue", "Commands that wait to be stored.")
        self._failing = gauge("store_failing", "1 while the store cannot write.")

    def delivered(self, provider: str, verdict: str, task: TaskRecord | None) -> None:
        """A callback was stored."""
        counted = self._verdicts.get((provider, verdict))
        if counted is None:
            counted = self._verdicts[provider, verdict] = self._deliveries.labels(provider, verdict)
        counted.inc()
        if verdict in ("late", "disagreed") and task is not None and task.deliveries == 1 and _is_polled(task):
            self._late.labels(provider).inc()

    def polled(self, provider: str, what: str) -> None:
        """The receiver polled: "sent", "failed" (nothing was learned), "contradicted" (a callback).

        "doubled": a poll was cut off by a crash or a pause, sent or not, and its task is polled once more.
        """
        self._own_polls.labels(provider, what).inc()

    def unlisted(self, provider: str, code: str) -> None:
        """Count an unlisted code; `code` is one of few names (see `client.provider_api.code_counts`)."""
        self._unlisted.labels(provider, code).inc()

    def refused(self, provider: str, status: int) -> None:
        """A callback was refused without a verdict; `provider` is what its URL names."""
        self._refused.labels(provider if provider in self._dialects else UNKNOWN, str(status)).inc()

    def connection_closed(self, reason: str) -> None:
        """A connection without a request was closed: "full", "silent", "head" or "chunks"."""
        self._connections_closed.labels(reason).inc()

    def fetched(self, task: TaskRecord, now: int) -> None:
        """Somebody was given this task by its id."""
        outcome = task.outcome
        if outcome is not None and outcome.valid_until is not None and outcome.valid_until < now:
            self._stale.labels(task.provider).inc()

    def committed(self, commands: int, ended: Sequence[TaskRecord]) -> None:
        """A transaction with so many commands was committed, and brought these tasks their outcomes."""
        self._commits.inc()
        self._commands.inc(commands)
        for task in ended:
            if task.outcome is not None:
                self._ended(task, task.outcome)

    def rendered(self, moment: Moment) -> bytes:
        """Return all numbers as text."""
        self._waiting.clear()
        self._overdue.clear()
        for waiting in moment.waiting:
            due = moment.now if waiting.oldest_due is None else waiting.oldest_due
            overdue = max(0, moment.now - due) / SECOND
            self._waiting.labels(waiting.provider).set(waiting.tasks)
            self._overdue.labels(waiting.provider).set(overdue)
        self._waiters.set(moment.waiters)
        self._streams.set(moment.streams)
        self._connections.set(moment.connections)
        self._idle_connections.set(moment.idle_connections)
        self._queued.set(moment.queued)
        self._failing.set(moment.is_failing)
        return generate_latest(self._registry)

    def _ended(self, task: TaskRecord, outcome: Outcome) -> None:
        counted = self._by_provider.get(task.provider)
        if counted is None:
            counted = self._by_provider[task.provider] = self._of_provider(task.provider)
        kind = (outcome.source, outcome.status)
        outcomes = counted.outcomes.get(kind)
        if outcomes is None:
            outcomes = counted.outcomes[kind] = self._outcomes.labels(task.provider, *kind)
        outcomes.inc()
        # What was held back until a poll confirmed it came when it was hinted at.
        came_at = task.hinted_at if outcome.trust == "confirmed" else outcome.finished_at
        is_called_back = outcome.source == "callback" or outcome.trust == "confirmed"
        # A task that a delivery made was not waited for.
        if is_called_back and came_at is not None and task.created_by is not None:
            counted.latency.observe((came_at - task.counts_from) / SECOND)
        elif _is_polled(task):
            counted.polled.inc()
        # Of what replaced an outcome of ours, the polls are counted already.
        if counted.max_polls is not None and outcome.supersedes is None:
            counted.allowed.inc(counted.max_polls)
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
    """Whether a poll alone brought the answer, though a callback was awaited: none had come that asked for the poll."""
    outcome = task.outcome
    is_answer = outcome is not None and outcome.source == "poll" and not outcome.is_provisional
    return is_answer and task.has_url and task.hinted_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfProvider:
    """The numbers of one provider: to find each by its labels again takes longer than to count."""

    max_polls: int | None
    latency: Histogram
    polled: Counter
    polls: Counter
    allowed: Counter
    outcomes: dict[tuple[str, str], Counter] = field(default_factory=dict)
