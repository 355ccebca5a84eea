"""createTask, as often as it is safe to send it.

It is sent again only where the provider cannot have made a task: there was no connection, or it said no in words. After
anything else a task may exist and may have been paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.logs import Log
from client.provider_api.http import Answered, NotSentError, ProviderApi, ProviderBusyError, UnclearError
from client.provider_api.limits import KeyGate
from client.provider_api.refusals import IN_A_ROW, Circuit
from client.provider_api.timeline import Timeline
from client.provider_api.timing import Timing, backoff_seconds
from client.providers import Dialect
from client.providers.readings import Pending, Reading, Ready, Refused, Submitted

__all__ = ["Submission", "Submitter"]

_log = Log()

_MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to createTask, whether the request had a callback URL, and when it was sent, by the client's clock.

    `answered` is an `UnclearError` where it is not known whether a task was made; then nothing was sent after that.
    """

    answered: Answered[Submitted] | UnclearError
    has_callback: bool
    sent_at: float


class Submitter:
    """Submits the tasks of one client; remembers when the provider refuses the receiver's address."""

    def __init__(
        self, provider: ProviderApi, dialect: Dialect, gate: KeyGate, timing: Timing, *, app_id: str | None
    ) -> None:
        self._provider = provider
        self._dialect = dialect
        self._gate = gate
        self._timing = timing
        self._app_id = app_id
        self._circuit = Circuit(dialect.codes)
        rule = dialect.callback
        # Of a provider without callbacks nobody has an address to give.
        self._takes_address = rule is None or not rule.is_account_wide
        self._is_address_refused = False

    async def submit(
        self,
        task: Mapping[str, Any],
        callback_url: str | None,
        *,
        deadline_at: float,
        timeline: Timeline,
        app_id: str | None = None,
    ) -> Submission:
        """What the provider answered; refusals that a pause may mend are repeated while `deadline_at` allows.

        What it waits for stands in the task's timeline. A request that the provider would only refuse again is not
        sent (see `Circuit`): the answer is the one before. `app_id` stands in for that of all tasks. Cancelling it
        leaves open whether a task was made.

        Raises:
            NotSentError, ProviderBusyError: no task was made, and several tries were in vain.
            NotCarriedOutError: no task was made, and the same request would not make one.
        """
        failures = bans = 0
        # The text of a refusal that names the address; it was the address if the task is taken without it.
        blamed: Reading | None = None
        while True:
            held = self._held(task, timeline)
            if held is None:
                await self._turn(deadline_at, timeline)
                # Others may have been refused while this one stood in line.
                held = self._held(task, timeline)
            if held is not None:
                return Submission(held, has_callback=False, sent_at=self._timing.clock())
            is_given = self._takes_address and not self._is_address_refused and blamed is None
            url = callback_url if is_given else None
            sent_at = self._timing.clock()
            self._circuit.send(task, sent_at)
            try:
                answered = await self._provider.create_task(task, callback_url=url, app_id=app_id or self._app_id)
            except NotSentError:
                pause = backoff_seconds(failures, self._timing.random, first=0.25)
                timeline.note("provider.missed", seconds=pause)
                if not self._may_repeat(failures, pause, deadline_at):
                    raise
                await self._timing.sleep(pause)
            except ProviderBusyError as error:
                pause = self._pause(error.retry_after_seconds, failures)
                self._gate.pause(pause)
                timeline.note("provider.paused", seconds=pause)
                if not self._may_repeat(failures, pause, deadline_at):
                    raise
            except UnclearError as error:
                return Submission(error, url is not None, sent_at)
            else:
                reading = answered.said.reading
                if url is not None and self._dialect.refuses_callback_url(reading):
                    blamed = reading
                    timeline.note("callback_url.refused")
                    continue
                if blamed is not None and isinstance(reading, Pending | Ready):
                    self._refuse_address(blamed)
                self._circuit.take(task, answered, self._timing.clock())
                if not isinstance(reading, Refused) or not reading.is_passing:
                    return Submission(answered, url is not None, sent_at)
                pause = self._pause(answered.retry_after_seconds or reading.pause_seconds, failures)
                self._gate.pause(pause)
                timeline.warning("provider.paused", errorCode=reading.error_code, seconds=pause)
                bans += reading.is_ban
                if bans > 1 or not self._may_repeat(failures, pause, deadline_at):
                    return Submission(answered, url is not None, sent_at)
            failures += 1

    def _held(self, task: Mapping[str, Any], timeline: Timeline) -> Answered[Submitted] | None:
        """Return the answer that the provider gave to the same, often enough for now."""
        answered = self._circuit.answer_to(task, self._timing.clock())
        if answered is not None:
            timeline.warning(
                "submit.withheld",
                errorCode=getattr(answered.said.reading, "error_code", None),
                reason=f"the provider refused {IN_A_ROW} in a row with it, or wants a pause after it",
            )
        return answered

    async def _turn(self, deadline_at: float, timeline: Timeline) -> None:
        """Wait for the key's turn to submit: behind those that came before, and while the key is paused."""
        seconds = self._gate.paused_until - self._timing.clock()
        if seconds > 0:
            timeline.note("submit.postponed", seconds=seconds, reason=self._gate.pause_reason)
        if await self._gate.submit_turn(deadline_at):
            return
        seconds = max(0.0, self._gate.paused_until - self._timing.clock())
        why = "a pause that lasts beyond" if seconds else "the limits of the key allow none before"
        raise ProviderBusyError(
            f"{self._dialect.provider}: createTask was not sent: {why} the task's deadline", seconds
        )

    def _may_repeat(self, failures: int, pause: float, deadline_at: float) -> bool:
        return failures + 1 < _MAX_TRIES and self._timing.clock() + pause < deadline_at

    def _pause(self, asked_seconds: float | None, failures: int) -> float:
        """Return the pause that the provider asked for or that its code stands for; else a growing one."""
        return asked_seconds or backoff_seconds(failures, self._timing.random, first=1.0)

    def _refuse_address(self, reading: Reading) -> None:
        if not self._is_address_refused:
            _log.warning(
                "callback_url.refused",
                provider=self._dialect.provider,
                errorCode=getattr(reading, "error_code", None),
                consequence="tasks of this client are submitted without it and polled",
            )
        self._is_address_refused = True
