"""createTask with safe retries.

It is sent again only if the provider cannot have made a task: no connection was made, or the provider refused the
request. After any other failure a task may exist, and may have been charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.logs import Log
from client.provider_api.http import NotSentError, ProviderAnswer, ProviderApi, ProviderBusyError, UnclearError
from client.provider_api.limits import KeyLimiter
from client.provider_api.refusals import IN_A_ROW, RepeatedRefusals
from client.provider_api.timeline import Timeline
from client.provider_api.timing import Timing, backoff_seconds
from client.providers import Dialect
from client.providers.readings import Pending, Reading, Ready, Refused, Submitted

__all__ = ["Submission", "Submitter"]

_log = Log()

_MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to createTask. `sent_at` is the time of the request by the client's clock.

    `answer` is an `UnclearError` if a task may have been made. Then nothing was sent after that.
    """

    answer: ProviderAnswer[Submitted] | UnclearError
    has_callback: bool
    sent_at: float


class Submitter:
    """createTask for all tasks of one client.

    If the provider refuses the receiver's address once, further tasks are submitted without a callback URL.
    """

    def __init__(
        self, provider: ProviderApi, dialect: Dialect, limiter: KeyLimiter, timing: Timing, *, app_id: str | None
    ) -> None:
        self._provider = provider
        self._dialect = dialect
        self._limiter = limiter
        self._timing = timing
        self._app_id = app_id
        self._refusals = RepeatedRefusals(dialect.codes)
        rule = dialect.callback
        # For a provider without callbacks there is no address anyway.
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
        """Send createTask and return the answer. Temporary refusals are repeated while `deadline_at` allows.

        Waits are noted in the task's timeline. If the provider would only refuse the request again, it is not sent
        and the last refusal is returned (see `RepeatedRefusals`). `app_id` replaces the client's. After a cancellation
        the task may exist.

        Raises:
            NotSentError, ProviderBusyError: no task was made in several tries.
            NotCarriedOutError: no task was made, and the same request would not make one.
        """
        failures = bans = 0
        # A refusal that names the address. If the task is taken without the address, that was the cause.
        address_refusal: Reading | None = None
        while True:
            refusal = await self._wait_or_withhold(task, deadline_at, timeline)
            if refusal is not None:
                return Submission(refusal, has_callback=False, sent_at=self._timing.clock())
            has_address = self._takes_address and not self._is_address_refused and address_refusal is None
            url = callback_url if has_address else None
            sent_at = self._timing.clock()
            self._refusals.send(task, sent_at)
            try:
                answer = await self._provider.create_task(task, callback_url=url, app_id=app_id or self._app_id)
            except NotSentError:
                pause = backoff_seconds(failures, self._timing.random, first=0.25)
                timeline.note("provider.missed", seconds=pause)
                if not self._may_repeat(failures, pause, deadline_at):
                    raise
                await self._timing.sleep(pause)
            except ProviderBusyError as error:
                pause = self._pause(error.retry_after_seconds, failures)
                self._limiter.pause(pause)
                timeline.note("provider.paused", seconds=pause)
                if not self._may_repeat(failures, pause, deadline_at):
                    raise
            except UnclearError as error:
                return Submission(error, url is not None, sent_at)
            else:
                reading = answer.reading.reading
                if url is not None and self._dialect.refuses_callback_url(reading):
                    address_refusal = reading
                    timeline.note("callback_url.refused")
                    continue
                if address_refusal is not None and isinstance(reading, Pending | Ready):
                    self._refuse_address(address_refusal)
                self._refusals.take(task, answer, self._timing.clock())
                if not isinstance(reading, Refused) or not reading.is_passing:
                    return Submission(answer, url is not None, sent_at)
                pause = self._pause(answer.retry_after_seconds or reading.pause_seconds, failures)
                self._limiter.pause(pause)
                timeline.warning("provider.paused", errorCode=reading.error_code, seconds=pause)
                bans += reading.is_ban
                if bans > 1 or not self._may_repeat(failures, pause, deadline_at):
                    return Submission(answer, url is not None, sent_at)
            failures += 1

    async def _wait_or_withhold(
        self, task: Mapping[str, Any], deadline_at: float, timeline: Timeline
    ) -> ProviderAnswer[Submitted] | None:
        """Wait for the key's turn to submit, and return None. Return the last refusal if nothing is to be sent."""
        refusal = self._withheld(task, timeline)
        if refusal is not None:
            return refusal
        await self._turn(deadline_at, timeline)
        # Others may have been refused while this one was in the queue.
        return self._withheld(task, timeline)

    def _withheld(self, task: Mapping[str, Any], timeline: Timeline) -> ProviderAnswer[Submitted] | None:
        """Return the provider's last refusal if it has come often enough to send nothing now."""
        answer = self._refusals.answer_to(task, self._timing.clock())
        if answer is not None:
            timeline.warning(
                "submit.withheld",
                errorCode=getattr(answer.reading.reading, "error_code", None),
                reason=f"the provider refused {IN_A_ROW} in a row with this code, or asks for a pause after it",
            )
        return answer

    async def _turn(self, deadline_at: float, timeline: Timeline) -> None:
        """Wait for the key's turn to submit: behind earlier callers, and while the key is paused."""
        seconds = self._limiter.paused_until - self._timing.clock()
        if seconds > 0:
            timeline.note("submit.postponed", seconds=seconds, reason=self._limiter.pause_reason)
        if await self._limiter.submit_turn(deadline_at):
            return
        seconds = max(0.0, self._limiter.paused_until - self._timing.clock())
        cause = "the key is paused beyond" if seconds else "the key's limits allow no request before"
        raise ProviderBusyError(
            f"{self._dialect.provider}: createTask was not sent: {cause} the task's deadline", seconds
        )

    def _may_repeat(self, failures: int, pause: float, deadline_at: float) -> bool:
        return failures + 1 < _MAX_TRIES and self._timing.clock() + pause < deadline_at

    def _pause(self, asked_seconds: float | None, failures: int) -> float:
        """Return the provider's pause, from its answer or its code; otherwise a growing one."""
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
