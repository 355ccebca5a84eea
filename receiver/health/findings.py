"""The problems of a receiver and their remedies, judged from facts. Pure. `doctor` and the notices use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from client.provider_api.unlisted import OTHER
from receiver.domain.access.api_keys import StoredKey
from receiver.domain.records import SECOND, RecentTasks, UnlistedCode, WaitingTasks, time_view
from receiver.domain.verdicts import VERDICTS

__all__ = ["Balance", "CanaryFailure", "Facts", "Finding", "Observed", "ProbeResult", "judge"]

# The store cuts its write-ahead log to 8 MB as soon as no reader holds it.
_LARGE_WAL_BYTES = 64 * 1024 * 1024
_LITTLE_SPACE_BYTES = 512 * 1024 * 1024
_CLOCK_SLACK = 5 * SECOND
_OVERDUE_SECONDS = 120
_ENOUGH_TASKS = 10
_MANY_LOST = 0.05
_MANY_LATE = 0.1
_MANY_REFUSED = 0.01
# Most tasks end with polls to spare. Unsolvable tasks use up their polls on a healthy receiver too.
_MANY_NEARLY_OUT = 0.05
_HOUR = 3600 * SECOND
_USES = (("submit", "register a task"), ("read", "read a result"), ("admin", "delete tasks or see /metrics"))
"""The scopes of API keys with their use."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem (`is_wrong`) or a note: its description and its remedy. Neither holds a secret.

    `about` and `of` name the same problem while its figures change. `of` is a provider, or a part of `about`.
    """

    about: str
    is_wrong: bool
    says: str
    todo: str
    of: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The answer to a request: its status and the `reason` in its JSON. Without an answer, `reason` says why."""

    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Balance:
    """The balance of an account at a time, in the provider's unit, and the limit below which it is low."""

    provider: str
    left: float
    low: float
    at: int


@dataclass(frozen=True, slots=True)
class CanaryFailure:
    """The failure of a receiver's own callback: its stage, and the reason without secrets.

    It fails since the time `since`, and `at` is the time of the last try.
    """

    stage: str
    reason: str
    since: int
    at: int


@dataclass(frozen=True, slots=True)
class Observed:
    """Facts that only a running receiver can see. It keeps them in its database for `doctor`.

    `balances` are those last read. `canary` is None unless its last callback failed.
    """

    balances: tuple[Balance, ...] = ()
    canary: CanaryFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts about a receiver.

    `ready` is the answer of `/readyz` on this machine, `callback` that of a callback URL; None: not asked. `scopes` are
    the scopes of all keys together; None: there are no keys. `signs` are the providers in use with signed callbacks.
    `ending_keys` expire within two weeks, or expired a week ago at most, and none of their names lasts longer. `hour`
    and `day` count the tasks registered in that time. `unlisted` are recent error codes missing from all lists.
    `observed` is from the last hour.
    """

    now: int
    is_writable: bool
    is_private: bool
    wal_bytes: int
    free_bytes: int
    newest_task: int | None
    public_url: str | None
    is_public_url_local: bool
    ready: ProbeResult | None = None
    callback: ProbeResult | None = None
    scopes: frozenset[str] | None
    ending_keys: Sequence[StoredKey] = ()
    signs: Sequence[str] = ()
    secrets: frozenset[str] = frozenset()
    waiting: Sequence[WaitingTasks] = ()
    hour: Sequence[RecentTasks] = ()
    day: Sequence[RecentTasks] = ()
    unlisted: Sequence[UnlistedCode] = ()
    observed: Observed = Observed()


def judge(facts: Facts) -> list[Finding]:
    """Return the findings, problems before notes; an empty list if all is well."""
    found = [*_store(facts), *_reachability(facts), *_access(facts)]
    hours, days = ({tasks.provider: tasks for tasks in recent} for recent in (facts.hour, facts.day))
    for provider in sorted({*hours, *days}):
        nothing = RecentTasks(provider)
        hour, day = hours.get(provider, nothing), days.get(provider, nothing)
        found += [*_refused(hour, day, facts.now), *_callbacks(hour, day), *_polls(hour, day)]
    found += [*_overdue(facts), *_unlisted(facts), *_balances(facts), *_canary(facts)]
    return sorted(found, key=lambda finding: not finding.is_wrong)


def _store(facts: Facts) -> Iterator[Finding]:
    if not facts.is_writable:
        text = "this user cannot write the database file or its folder"
        yield Finding("store", True, text, "Change the owner (chown) or the mode (chmod).")
    if not facts.is_private:
        text = "other users can read the database; it holds the signing key of the callback URLs"
        yield Finding("store", True, text, "Run chmod 600 on the file and on those beside it.", "mode")
    if facts.free_bytes < _LITTLE_SPACE_BYTES:
        text = f"the database's disk has only {_megabytes(facts.free_bytes)} free; when it is full, callbacks fail"
        yield Finding("store", True, text, "Free some space, or move the database.", "space")
    if facts.wal_bytes > _LARGE_WAL_BYTES:
        text = f"the write-ahead log has {_megabytes(facts.wal_bytes)}: a program that reads keeps it from shrinking"
        todo = "End long readers of the database (backups, shells). The next callbacks then cut the log to 8 MB."
        yield Finding("store", True, text, todo, "log")
    if facts.newest_task is not None and facts.newest_task > facts.now + _CLOCK_SLACK:
        ahead = (facts.newest_task - facts.now) / SECOND
        text = f"the newest task was registered {ahead:.0f} s in the future: the clock was set back"
        yield Finding("clock", True, text, "Set the clock by NTP. Polls and deadlines are late until it catches up.")


def _reachability(facts: Facts) -> Iterator[Finding]:
    if facts.ready is not None and facts.ready.status is None:
        text = f"no receiver answers on this machine: {facts.ready.reason}"
        yield Finding("server", True, text, "Start it: callback-receiver serve.")
    elif facts.ready is not None and facts.ready.status != 200:
        text = f"the receiver reports that it cannot store: {facts.ready.reason}"
        yield Finding("server", True, text, "See its log. Callbacks get 503 until it can store again.")
    if facts.public_url is None:
        text = "RECEIVER_PUBLIC_URL is not set: tasks get no callback URLs, and every answer has to be polled"
        yield Finding("publicUrl", True, text, "Set RECEIVER_PUBLIC_URL.")
    elif facts.is_public_url_local:
        text = f"providers cannot reach {facts.public_url}: it means this machine only"
        yield Finding("publicUrl", True, text, "Set RECEIVER_PUBLIC_URL to a public address. For a sandbox it is fine.")
    elif facts.callback is not None and facts.callback.status != 204:
        answer = facts.callback.reason if facts.callback.status is None else f"{facts.callback.status}, not 204"
        text = f"a callback URL below {facts.public_url}, asked from this machine, answers: {answer}"
        todo = "Check the proxy: host name, certificate, and that it strips only the path of RECEIVER_PUBLIC_URL."
        yield Finding("publicUrl", True, text, todo)


def _access(facts: Facts) -> Iterator[Finding]:
    if facts.scopes is None:
        yield Finding(
            "keys", False, "there are no API keys", "Make one, except for development: callback-receiver keys add NAME"
        )
    for scope, use in _USES:
        if facts.scopes is not None and scope not in facts.scopes:
            text = f"no key has the scope {scope}: nobody can {use}"
            yield Finding("keys", scope != "admin", text, f"Make one: callback-receiver keys add NAME --scope {scope}")
    for key in facts.ending_keys:
        end = time_view(key.expires_at or 0).date()
        text = f"the API key {key.name} {'expires' if key.state(facts.now) == 'valid' else 'expired'} on {end}"
        todo = f"If it is still in use, make the next one: callback-receiver keys add {key.name}"
        yield Finding("keys", False, f"{text}, and no key of this name lasts longer", todo, key.name)
    for provider in sorted(set(facts.signs) - facts.secrets):
        text = f"{provider} signs its callbacks, but its secret is not set, so signatures are not checked"
        yield Finding("signature", True, text, f'Add "{provider}" to RECEIVER_CALLBACK_SECRETS.', provider)


def _refused(hour: RecentTasks, day: RecentTasks, now: int) -> Iterator[Finding]:
    """Compare refusals with all callbacks: standing URLs get callbacks without a waiting task.

    Old refusals are a note, because nothing needs to be done any more.
    """
    for verdict in VERDICTS:
        found = [(period, tasks) for period, tasks in _periods(hour, day) if verdict in tasks.refused]
        if not found:
            continue
        period, tasks = found[0]
        is_many = any(of.refused[verdict] > sum(of.verdicts.values()) * _MANY_REFUSED for _, of in found)
        since = now - max(of.newest.get(verdict, 0) for _, of in found)
        text = f"{tasks.provider}: {tasks.refused[verdict]} callbacks of the last {period} were refused as {verdict}"
        if since > _HOUR:
            text += f", none of them in the last {since // _HOUR} h"
        todo = f"{VERDICTS[verdict].remedy}. For details run callback-receiver explain with one of its tasks."
        yield Finding("refused", is_many and since <= _HOUR, text, todo, f"{tasks.provider} {verdict}")


def _callbacks(hour: RecentTasks, day: RecentTasks) -> Iterator[Finding]:
    """Count an answer by a poll as a lost callback, unless its callback arrived afterwards.

    Losses before the last hour are a note if enough callbacks came since.
    """
    enough = [(period, tasks) for period, tasks in _periods(hour, day) if tasks.answered >= _ENOUGH_TASKS]
    for period, tasks in enough:
        if tasks.lost > tasks.answered * _MANY_LOST:
            share = f"{tasks.lost} of {tasks.answered} answers in the last {period}"
            text = f"{tasks.provider}: {share} came by a poll alone: their callbacks were lost"
            is_over = tasks is not enough[0][1]
            if is_over:
                text += "; in the last hour they came again"
            todo = "Check that the provider can reach RECEIVER_PUBLIC_URL."
            yield Finding("lost", not is_over, text, todo, tasks.provider)
            break
    for period, tasks in enough:
        if tasks.late > tasks.answered * _MANY_LATE:
            share = f"{tasks.late} of {tasks.answered} answers in the last {period}"
            text = f"{tasks.provider}: {share} were polled before their callback arrived"
            todo = "Raise firstAfterCallbackSeconds of the provider in RECEIVER_PROVIDERS_FILE."
            yield Finding("late", False, text, todo, tasks.provider)
            break


def _polls(hour: RecentTasks, day: RecentTasks) -> Iterator[Finding]:
    for period, tasks in _periods(hour, day):
        if tasks.ended >= _ENOUGH_TASKS and tasks.nearly_out > tasks.ended * _MANY_NEARLY_OUT:
            text = (
                f"{tasks.provider}: {tasks.nearly_out} of {tasks.ended} tasks that ended in the last {period} used "
                f"nearly all of their {tasks.most_polls} allowed polls; after the last poll only a callback can end a "
                "task"
            )
            todo = (
                "Raise intervalSeconds of the provider in RECEIVER_PROVIDERS_FILE. Find out why callbacks do not "
                "arrive."
            )
            yield Finding("polls", False, text, todo, tasks.provider)
            break


def _periods(hour: RecentTasks, day: RecentTasks) -> tuple[tuple[str, RecentTasks], tuple[str, RecentTasks]]:
    """Return the periods with their tasks, the shorter one first: a problem is reported once, for the first."""
    return ("hour", hour), ("day", day)


def _overdue(facts: Facts) -> Iterator[Finding]:
    for waiting in facts.waiting:
        if waiting.oldest_due is not None and (seconds := (facts.now - waiting.oldest_due) / SECOND) > _OVERDUE_SECONDS:
            text = f"{waiting.provider}: {waiting.tasks} tasks wait; the first poll is {seconds:.0f} s overdue"
            todo = (
                "Check that the client of these tasks still runs. If the receiver polls them, look for a pause in its "
                "log. callback-receiver explain shows what a task waits for."
            )
            yield Finding("overdue", True, text, todo, waiting.provider)


def _unlisted(facts: Facts) -> Iterator[Finding]:
    for code in facts.unlisted:
        times = "once" if code.times == 1 else f"{code.times} times"
        last = time_view(code.last_seen).date()
        if code.code == OTHER:
            text = f"{code.provider}: further unlisted error codes came {times}, last on {last}; no names are kept"
            yield Finding("codes", False, text, "Find them in the log (code.unlisted) and report them to this project.")
            continue
        text = f"{code.provider}: the error code {code.code} is on no list; it came {times}, last on {last}"
        todo = (
            f'Declare its meaning in RECEIVER_PROVIDERS_FILE under [{code.provider}.codes."{code.code}"], and '
            "report it to this project."
        )
        yield Finding("codes", False, text, todo)


def _balances(facts: Facts) -> Iterator[Finding]:
    for balance in facts.observed.balances:
        if balance.left < balance.low:
            text = f"{balance.provider}: the balance is {balance.left:g}, below {balance.low:g}"
            todo = "Top up the account. Without a balance the provider refuses all tasks."
            yield Finding("balance", True, text, todo, balance.provider)


def _canary(facts: Facts) -> Iterator[Finding]:
    canary = facts.observed.canary
    if canary is not None:
        since = time_view(canary.since).isoformat(timespec="seconds")
        text = f"a callback of the receiver to itself fails since {since}, at {canary.stage}: {canary.reason}"
        yield Finding(
            "canary", True, text, "Run callback-receiver canary. Callbacks of providers fail in the same way."
        )


def _megabytes(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MB"
