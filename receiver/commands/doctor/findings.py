"""What is wrong with a receiver and what to do about it, judged from facts that others have read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from client.provider_api.unlisted import OTHER
from receiver.domain.records import SECOND, RecentTasks, UnlistedCode, WaitingTasks, time_view

__all__ = ["Answered", "Counted", "Facts", "Finding", "judge"]

# The store cuts its write-ahead log to 8 MB as soon as no reader holds it.
_LARGE_WAL_BYTES = 64 * 1024 * 1024
_LITTLE_SPACE_BYTES = 512 * 1024 * 1024
_CLOCK_SLACK = 5 * SECOND
_OVERDUE_SECONDS = 120
_ENOUGH_TASKS = 10
_MANY_LOST = 0.05
_MANY_LATE = 0.1
_MANY_REFUSED = 0.01
# Most tasks end long before; some that no provider solves use up all theirs, on a healthy receiver too.
_MANY_NEARLY_OUT = 0.05
# Who looks at an old task gets an old answer, which is in order now and then; each look counts.
_MANY_STALE = 0.1
_WHAT_TO_DO = {
    "mismatched": "give each createTask a callbackUrl of its own: what came there was for another task",
    "badSignature": "compare the provider's secret with RECEIVER_CALLBACK_SECRETS; is it right, somebody forges",
    "unreadable": "correct the provider in RECEIVER_PROVIDERS_FILE, restart, then callback-receiver redeliver",
}
_PERIODS = (("hour", 3600), ("day", 24 * 3600))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (`is_wrong`) or worth knowing: what it is, and what to do; never a secret."""

    about: str
    is_wrong: bool
    says: str
    todo: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What an address answered: a status, or why there was no answer; `reason` is what it said."""

    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Counted:
    """What a running receiver counted since it started: stale answers and outcomes, by provider; None: `reason`."""

    by_provider: Mapping[str, tuple[int, int]] | None
    reason: str

    def stale(self, provider: str) -> int | None:
        """How many of its answers were stale when they were taken; None: not known."""
        return None if self.by_provider is None else self.by_provider.get(provider, (0, 0))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read. `ready` is `/readyz` of this machine, `callback` a check of a callback URL; None: not asked.

    `hour` and `day` are what became of the tasks that were registered in that time. `signs` are providers that sign
    their callbacks and are used here; `scopes` is what any key may do, None without keys. `counted` is what the
    running receiver tells. `unlisted` are error codes that came lately and that no list has.
    """

    now: int
    is_writable: bool
    is_private: bool
    wal_bytes: int
    free_bytes: int
    newest_task: int | None
    public_url: str | None
    is_public_url_local: bool
    ready: Answered | None
    callback: Answered | None
    scopes: frozenset[str] | None
    signs: Sequence[str] = ()
    secrets: frozenset[str] = frozenset()
    waiting: Sequence[WaitingTasks] = ()
    hour: Sequence[RecentTasks] = ()
    day: Sequence[RecentTasks] = ()
    counted: Counted = Counted(None, "nobody was asked")
    unlisted: Sequence[UnlistedCode] = ()


def judge(facts: Facts) -> list[Finding]:
    """What was found, the wrong things first; empty where all is well."""
    found = [*_store(facts), *_reachability(facts), *_access(facts)]
    for (period, _), recent in zip(_PERIODS, (facts.hour, facts.day), strict=True):
        for tasks in recent:
            found += [*_refused(tasks, period), *_callbacks(tasks, period), *_polls(tasks, period)]
    found += [*_overdue(facts), *_stale(facts), *_unlisted(facts)]
    return sorted(found, key=lambda finding: not finding.is_wrong)


def _store(facts: Facts) -> Iterator[Finding]:
    if not facts.is_writable:
        yield Finding("store", True, "the database or its folder is not writable for this user", "chown or chmod it")
    if not facts.is_private:
        text = "others may read the database; it holds the key that callback URLs are signed with"
        yield Finding("store", True, text, "chmod 600 the file and those beside it")
    if facts.free_bytes < _LITTLE_SPACE_BYTES:
        text = f"only {_megabytes(facts.free_bytes)} are free on its disk; on a full one every callback is refused"
        yield Finding("store", True, text, "make room, or move the database")
    if facts.wal_bytes > _LARGE_WAL_BYTES:
        text = f"its write-ahead log has {_megabytes(facts.wal_bytes)}: a program that reads keeps it from being cut"
        todo = "end programs that read the database for long (backups, shells); the next callbacks then cut it to 8 MB"
        yield Finding("store", True, text, todo)
    if facts.newest_task is not None and facts.newest_task > facts.now + _CLOCK_SLACK:
        ahead = (facts.newest_task - facts.now) / SECOND
        text = f"the newest task was registered {ahead:.0f} s in the future: the clock was set back"
        yield Finding("clock", True, text, "let it be set by NTP; polls and deadlines are late until it has caught up")


def _reachability(facts: Facts) -> Iterator[Finding]:
    if facts.ready is not None and facts.ready.status is None:
        text = f"no receiver answers on this machine: {facts.ready.reason}"
        yield Finding("server", True, text, "start it: callback-receiver serve")
    elif facts.ready is not None and facts.ready.status != 200:
        text = f"the receiver says that it cannot store: {facts.ready.reason}"
        yield Finding("server", True, text, "see its log; callbacks are answered 503 meanwhile")
    if facts.public_url is None:
        text = "no callback URLs are given out, so every answer has to be polled"
        yield Finding("publicUrl", True, text, "set RECEIVER_PUBLIC_URL")
    elif facts.is_public_url_local:
        text = f"providers cannot reach {facts.public_url}: it is this machine's own name for itself"
        yield Finding("publicUrl", True, text, "set RECEIVER_PUBLIC_URL to a public address; for a sandbox it is fine")
    elif facts.callback is not None and facts.callback.status != 204:
        said = facts.callback.reason if facts.callback.status is None else f"{facts.callback.status}, not 204"
        text = f"a callback URL below {facts.public_url} answers from here: {said}"
        todo = "check name, certificate and path of the proxy, and that it passes /callback/ on without the URL's path"
        yield Finding("publicUrl", True, text, todo)


def _access(facts: Facts) -> Iterator[Finding]:
    if facts.scopes is None:
        yield Finding("keys", False, "there are no API keys", "fine for development; otherwise set RECEIVER_API_KEYS")
    for scope, what in (("submit", "register a task"), ("read", "read a result"), ("admin", "delete or see /metrics")):
        if facts.scopes is not None and scope not in facts.scopes:
            text = f"no key has the scope {scope}: nobody can {what}"
            yield Finding("keys", scope != "admin", text, f"give it to a key: name:secret:…+{scope}")
    for provider in sorted(set(facts.signs) - facts.secrets):
        text = f"{provider} signs its callbacks, but its secret is not set: the URL alone is the proof"
        yield Finding("signature", True, text, f'add "{provider}" to RECEIVER_CALLBACK_SECRETS')


def _refused(tasks: RecentTasks, period: str) -> Iterator[Finding]:
    """Of all callbacks that are kept: those on standing URLs are no answer to a task that waited for one."""
    callbacks = sum(tasks.verdicts.values())
    for verdict, count in tasks.refused.items():
        text = f"{tasks.provider}: {count} callbacks of the last {period} were refused as {verdict}"
        todo = f"see callback-receiver explain for one of its tasks; {_WHAT_TO_DO[verdict]}"
        yield Finding("refused", count > callbacks * _MANY_REFUSED, text, todo)


def _callbacks(tasks: RecentTasks, period: str) -> Iterator[Finding]:
    """Yield a poll that came first is a lost callback, unless the callback came afterwards."""
    if tasks.answered < _ENOUGH_TASKS:
        return
    lost = tasks.lost
    of_all = f"of {tasks.answered} answers in the last {period}"
    if lost > tasks.answered * _MANY_LOST:
        text = f"{tasks.provider}: {lost} {of_all} were brought by a poll alone: their callbacks got lost"
        yield Finding("lost", True, text, "check that the provider can reach RECEIVER_PUBLIC_URL")
    if tasks.late > tasks.answered * _MANY_LATE:
        text = f"{tasks.provider}: {tasks.late} {of_all} were polled before their callback came"
        yield Finding("late", False, text, "raise firstAfterCallbackSeconds of the provider in RECEIVER_PROVIDERS_FILE")


def _polls(tasks: RecentTasks, period: str) -> Iterator[Finding]:
    if tasks.ended >= _ENOUGH_TASKS and tasks.nearly_out > tasks.ended * _MANY_NEARLY_OUT:
        text = (
            f"{tasks.provider}: {tasks.nearly_out} of {tasks.ended} tasks that ended in the last {period} had used "
            f"nearly all {tasks.most_polls} polls that one is allowed; without a callback, nothing asks after the last"
        )
        todo = "raise intervalSeconds of the provider in RECEIVER_PROVIDERS_FILE, and see why callbacks do not come"
        yield Finding("polls", False, text, todo)


def _stale(facts: Facts) -> Iterator[Finding]:
    for provider, (stale, outcomes) in sorted((facts.counted.by_provider or {}).items()):
        if outcomes >= _ENOUGH_TASKS and stale > outcomes * _MANY_STALE:
            text = f"{provider}: {stale} answers were stale when taken, of {outcomes} since the receiver started"
            todo = "wait for answers (?wait=, a stream) rather than look later; in Python, solve(task, fresh_for=…)"
            yield Finding("stale", False, text, todo)


def _overdue(facts: Facts) -> Iterator[Finding]:
    for waiting in facts.waiting:
        if waiting.oldest_due is not None and (seconds := (facts.now - waiting.oldest_due) / SECOND) > _OVERDUE_SECONDS:
            text = f"{waiting.provider}: {waiting.tasks} tasks wait; the first was to be polled {seconds:.0f} s ago"
            todo = (
                "see that its client still runs, or, where the receiver polls, that its log tells of no pause; "
                "callback-receiver explain tells of each task what it waits for"
            )
            yield Finding("overdue", True, text, todo)


def _unlisted(facts: Facts) -> Iterator[Finding]:
    for code in facts.unlisted:
        times = "once" if code.times == 1 else f"{code.times} times"
        last = time_view(code.last_seen).date()
        if code.code == OTHER:
            text = f"{code.provider}: error codes on no list came {times}, last on {last}; they are too many or too odd"
            yield Finding("codes", False, text, "see code.unlisted in the log, and report them to this project")
            continue
        text = f"{code.provider}: the error code {code.code} is on no list; it came {times}, last on {last}"
        todo = (
            f'say what it means in RECEIVER_PROVIDERS_FILE under [{code.provider}.codes."{code.code}"], and report it '
            "to this project"
        )
        yield Finding("codes", False, text, todo)


def _megabytes(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MB"
