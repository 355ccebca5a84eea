"""The receiver's own fallback polls. Each unfinished task of an account is polled to its end, callback or not.

The store holds the time of each task's next poll, so a restart changes nothing. Due tasks are taken with a lease and
polled within the limits of the key, oldest first. Then the answer is stored. If the process dies in between, the lease
expires and the task is polled once more.

Several receivers poll the tasks of one key. Each takes tasks together with turns of the key, so all together keep its
limits (`receiver.upstream.key_sharing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import isfinite

import structlog

from client.errors import ProviderUnreachableError
from client.provider_api.http import NotSentError, ProviderBusyError
from client.providers.readings import Failed, Pending, Reading, Ready, Refused, Unknown
from receiver.domain.next_poll import limits_of
from receiver.domain.polls import Adopt, FinishPoll, GiveBack, PolledTask, Read, TakeDue, is_hinted_since
from receiver.domain.reading import Origin, ReportedAnswer
from receiver.domain.records import CUT_OFF, SECOND, PollRecord, TaskRecord
from receiver.errors import ReceiverError
from receiver.feed.hub import Waiter
from receiver.storage.store import Store
from receiver.upstream.accounts import Account
from receiver.upstream.backoff import KeyBackoff
from receiver.upstream.key_sharing import KeySharing
from receiver.upstream.schedules import Schedules

__all__ = ["Reconciler"]

_POLL_SECONDS = 20.0
# A lease must outlast the poll: with less time left, none is begun.
_LEASE_LEFT_SECONDS = _POLL_SECONDS + 5.0
_AT_ONCE = 50
# Taken tasks wait for the key's next turns. Each must get its turn while its lease is fresh.
_TURNS_AHEAD_SECONDS = 2.0
_TICK_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_GIVE_BACK_SECONDS = 1.0
_WRITE_TRIES = 5
_ADOPT_AT_ONCE = 500

_log = structlog.get_logger()


class Reconciler:
    """Polls of the tasks of one account. Run `run`, and call `nudge` if a task may be due now.

    `read` reads a callback that was held until a poll confirms it. `count` counts the polls by their result.
    """

    def __init__(
        self,
        account: Account,
        store: Store,
        schedules: Schedules,
        now: Callable[[], int],
        read: Read,
        count: Callable[[str, str], None],
    ) -> None:
        self._account = account
        self._store = store
        self._now = now
        self._read = read
        self._count = count
        self._schedules = schedules
        self._limits = limits_of(account.dialect.polls)
        self._polling: set[asyncio.Task[None]] = set()
        self._waiter = Waiter()
        self._most = max(1, min(_AT_ONCE, round(account.dialect.key_limits.requests_per_second * _TURNS_AHEAD_SECONDS)))
        self._backoff = KeyBackoff(account)
        self._sharing = KeySharing(account, store, self._backoff)
        self._is_paused = False
        self._last_failure: tuple[type[ProviderUnreachableError], int | None] | None = None

    @property
    def provider(self) -> str:
        """The provider of the tasks."""
        return self._account.dialect.provider

    def nudge(self) -> None:
        """Look for due tasks now instead of at the next tick."""
        self._waiter.wake()

    async def run(self) -> None:
        """Poll due tasks until cancelled. Then polls under way are cut off, and the store learns of it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sharing.run(), name="key sharing")
            group.create_task(self._adopt(), name="adopt")
            while True:
                self._waiter.clear()
                for task in await self._take(group):
                    polling = group.create_task(self._poll(task), name="poll")
                    self._polling.add(polling)
                    polling.add_done_callback(self._ended)
                await self._waiter.wait(_TICK_SECONDS)

    def _ended(self, polling: asyncio.Task[None]) -> None:
        self._polling.discard(polling)
        if len(self._polling) == self._most - 1:
            self._waiter.wake()

    async def _adopt(self) -> None:
        """Adopt the tasks registered while the receiver did not have this key, some at a time."""
        place = (0, 0)
        while True:
            try:
                refs, following = await self._store.unpolled(
                    self.provider, self._account.key_id, place, limit=_ADOPT_AT_ONCE
                )
                if refs:
                    await self._store.write(Adopt(refs=refs))
                    _log.info("tasks.adopted", provider=self.provider, tasks=len(refs))
            except ReceiverError as error:
                _log.warning("tasks.not_adopted", provider=self.provider, reason=error.detail)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if following is None:
                return
            place = following
            await asyncio.sleep(0.01)

    async def _take(self, group: asyncio.TaskGroup) -> Sequence[TaskRecord]:
        """Take the due tasks that can be polled now. If cancelled, give back the tasks that were taken meanwhile."""
        taking = group.create_task(self._taken(), name="take")
        try:
            await asyncio.wait([taking])
        except asyncio.CancelledError:
            await asyncio.wait([taking], timeout=_GIVE_BACK_SECONDS)
            for task in taking.result() if taking.done() else ():
                await self._give_back(task)
            raise
        return taking.result()

    async def _taken(self) -> Sequence[TaskRecord]:
        now, room = self._now(), self._most - len(self._polling)
        if room <= 0 or self._is_key_paused():
            return []
        try:
            due = await self._store.next_due(self.provider)
            if due is None or (due[0] > now and due[1] <= now + self._limits.reach):
                return []
            command = TakeDue(provider=self.provider, now=now, limit=room, limits=self._limits, use=self._sharing.use)
            taken = await self._store.write(command)
        except ReceiverError as error:
            _log.warning("polls.not_taken", provider=self.provider, reason=error.detail)
            await asyncio.sleep(_RETRY_SECONDS)
            return []
        self._sharing.grant_polls(taken.waits)
        if taken.doubled:
            for _ in range(taken.doubled):
                self._count(self.provider, "doubled")
            _log.warning("polls.cut_off", provider=self.provider, tasks=taken.doubled, consequence="polled once more")
        return taken.tasks

    def _is_key_paused(self) -> bool:
        is_paused = self._account.limiter.paused_until > self._account.timing.clock()
        if self._is_paused and not is_paused:
            _log.info("provider.resumed", provider=self.provider)
        self._is_paused = is_paused
        return is_paused

    async def _poll(self, task: TaskRecord) -> None:
        if not await self._has_turn(task):
            return
        started_at = self._now()
        self._count(self.provider, "sent")
        reading, is_sent = None, True
        try:
            reading = await self._ask(task)
        except NotSentError:
            self._count(self.provider, "failed")
            is_sent = False
        except asyncio.CancelledError:
            # The receiver stops: after its next start the task is polled in time, not when the lease has run out.
            await self._finish(task, PollRecord(started_at, self._now(), task.lease, CUT_OFF), None, tries=1)
            raise
        poll = PollRecord(started_at, max(self._now(), started_at), task.lease, _word(reading))
        await self._finish(task, poll, reading, tries=_WRITE_TRIES, is_sent=is_sent)

    async def _has_turn(self, task: TaskRecord) -> bool:
        """Wait for the task's turn to be polled. If it does not come in time, give the task back."""
        seconds_left = ((task.leased_until or 0) - self._now()) / SECOND - _LEASE_LEFT_SECONDS
        by = self._account.timing.clock() + seconds_left
        is_hinted = is_hinted_since(task)
        try:
            has_turn = await self._account.limiter.poll_turn(by, is_first=task.polls == 0, is_hinted=is_hinted)
        except asyncio.CancelledError:
            await self._give_back(task)
            raise
        if has_turn and (task.leased_until or 0) - self._now() >= _LEASE_LEFT_SECONDS * SECOND:
            return True
        # The process or the key was paused.
        await self._give_back(task)
        return False

    async def _give_back(self, task: TaskRecord) -> None:
        command = GiveBack(ref=task.ref, lease=task.lease, now=self._now(), limits=self._limits, use=self._sharing.use)
        try:
            await self._store.write(command)
        except ReceiverError as error:
            _log.warning("poll.not_given_back", ref=task.ref, reason=error.detail)

    async def _ask(self, task: TaskRecord) -> Reading | None:
        if task.task_id is None:
            return None
        account = self._account
        try:
            answer = await account.api.get_task_result(task.task_id, seconds=_POLL_SECONDS)
        except NotSentError as error:
            self._log_failure(error)
            raise
        except ProviderUnreachableError as error:
            self._count(self.provider, "failed")
            self._log_failure(error)
            if isinstance(error, ProviderBusyError):
                self._backoff.busy(error)
            return None
        self._log_recovery()
        reading = answer.reading
        if isinstance(reading, Refused):
            self._count(self.provider, "failed")
            self._backoff.refused(reading, answer.retry_after_seconds)
        else:
            self._backoff.release()
        return reading

    def _log_failure(self, error: ProviderUnreachableError) -> None:
        """Log why polls fail, once for each reason: a wrong URL is no news at every poll."""
        failure = (type(error), error.status)
        if failure != self._last_failure:
            self._last_failure = failure
            _log.warning("polls.failed", provider=self.provider, reason=str(error)[:500])

    def _log_recovery(self) -> None:
        if self._last_failure is not None:
            self._last_failure = None
            _log.info("polls.answered", provider=self.provider)

    async def _finish(
        self, task: TaskRecord, poll: PollRecord, reading: Reading | None, *, tries: int, is_sent: bool = True
    ) -> None:
        wait = self._schedules.next_poll_seconds(task, task.polls + is_sent)
        answer = None
        if reading is not None and not isinstance(reading, Refused):
            answer = self._reported(reading, poll.ended_at)
        command = FinishPoll(
            ref=task.ref,
            poll=poll,
            asked_id=task.id_text,
            answer=answer,
            wait=round(wait * SECOND) if isfinite(wait) else None,
            limits=self._limits,
            read=self._read,
            is_sent=is_sent,
        )
        for tries_left in reversed(range(tries)):
            try:
                polled = await self._store.write(command)
            except ReceiverError as error:
                _log.warning("poll.not_stored", ref=task.ref, reason=error.detail)
                await asyncio.sleep(_RETRY_SECONDS if tries_left else 0)
                continue
            if polled is not None:
                self._schedules.polled(polled)
                self._log_poll(poll, polled)
            return

    def _reported(self, reading: Reading, now: int) -> ReportedAnswer:
        dialect = self._account.dialect
        return ReportedAnswer(
            reading=reading,
            origin=Origin("poll", "polled", now, dialect.answer_life_seconds),
            polls=None,
            reported_at=now,
            unknown_final_after=self._limits.window + self._limits.grace,
            size=0,
        )

    def _log_poll(self, poll: PollRecord, polled: PolledTask) -> None:
        task = polled.task
        if polled.is_contradicted:
            self._count(self.provider, "contradicted")
            _log.warning("callback.contradicted", provider=self.provider, ref=task.ref, consequence="the poll wins")
        _log.info(
            "task.polled",
            provider=self.provider,
            ref=task.ref,
            said=poll.summary,
            verdict=polled.verdict,
            polls=task.polls,
            isDoubled=polled.is_doubled,
            milliseconds=(poll.ended_at - poll.started_at) // 1000,
        )


def _word(reading: Reading | None) -> str:
    """Return the provider's word for its answer, for the timeline; never a solution."""
    match reading:
        case None:
            return "unreachable"
        case Ready():
            return "ready"
        case Pending(state):
            return f"processing {state[:64]}".rstrip() if state != "processing" else "processing"
        case Failed() | Refused() | Unknown():
            return f"{type(reading).__name__.lower()} {reading.error_code[:64]}"
