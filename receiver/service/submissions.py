"""Tasks that the receiver submits with its own key, so that a caller in any language needs one request.

The record is made before the provider is called. After a crash in between, the provider may or may not have the task,
so it is never submitted again. It waits for its callback, and ends as RECEIVER_SUBMIT_UNKNOWN.

Of several receivers that get one Idempotency-Key, the one that made the record submits the task. It holds a lease with
the record. So the others refuse the key until the task has its id or its outcome, as one receiver alone does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime

import structlog

from client.errors import BadArgumentError, ProviderUnreachableError
from client.protocol.models import NOT_CARRIED_OUT, NOT_SUBMITTED, PROVISIONAL, Registration, Trust
from client.provider_api.http import NotCarriedOutError, UnclearError
from client.provider_api.submit import Submission, Submitter
from client.provider_api.timeline import Timeline
from client.providers.readings import Failed, Pending, Reading, Ready, Refused, TaskId, Unknown
from receiver.domain.reading import Origin, ReportedAnswer
from receiver.domain.records import SECOND, TaskRecord
from receiver.domain.registrations import RegisteredTask
from receiver.errors import ReceiverError
from receiver.service.idempotency import KeysInFlight
from receiver.service.tasks import Tasks
from receiver.tracing import Tracing
from receiver.upstream.accounts import Account

__all__ = ["Submissions", "refusal_of"]

_MOST_SECONDS = 60.0
"""Time after which a caller is told that the provider does not take the task now."""
_END_SECONDS = 4.0
"""Time that providers have to answer at shutdown, after the callers have gone."""
_CUT_OFF_SECONDS = 1.0
"""Time to store that submissions were cut off."""

_log = structlog.get_logger()


class Submissions:
    """Submits tasks with the receiver's own keys.

    `owner` runs submissions, so that they end even if their callers hang up. `now` returns microseconds since 1970.
    `tracing` makes a span of each createTask.
    """

    def __init__(
        self,
        tasks: Tasks,
        accounts: Mapping[str, Account],
        owner: asyncio.TaskGroup,
        now: Callable[[], int],
        *,
        tracing: Tracing | None = None,
    ) -> None:
        self.keys_in_flight = KeysInFlight()
        self._name = secrets.token_hex(6)
        self._tasks = tasks
        self._accounts = accounts
        self._owner = owner
        self._now = now
        self._tracing = tracing
        self._under_way: set[asyncio.Task[RegisteredTask | ReceiverError]] = set()
        self._submitters = {
            provider: Submitter(account.api, account.dialect, account.limiter, account.timing, app_id=None)
            for provider, account in accounts.items()
        }

    async def submit(
        self,
        registration: Registration,
        *,
        owner: str,
        idempotency_key: str | None,
        traceparent: str | None = None,
    ) -> RegisteredTask:
        """Return the task, registered and submitted. A task of the same Idempotency-Key is not submitted again.

        Cancelling the wait takes nothing back: the submission goes on.

        Raises:
            ReceiverError: as `Tasks.register`. `provider-refused` or `provider-unreachable` if no task was made.
                `idempotency-in-flight` also after the first caller has hung up.
        """
        self.keys_in_flight.take(owner, idempotency_key)
        try:
            account = self._account(registration)
            submitting = self._owner.create_task(
                self._submit(account, registration, owner, idempotency_key, traceparent), name="submission"
            )
        except BaseException:
            self.keys_in_flight.give_back(owner, idempotency_key)
            raise
        self._under_way.add(submitting)
        submitting.add_done_callback(self._under_way.discard)
        submitting.add_done_callback(lambda _: self.keys_in_flight.give_back(owner, idempotency_key))
        await asyncio.wait([submitting])
        if submitting.cancelled():
            raise ReceiverError(
                "shutting-down",
                "the task may have been submitted; send the request again with the same Idempotency-Key",
            )
        result = submitting.result()
        if isinstance(result, ReceiverError):
            raise result
        return result

    async def end(self) -> None:
        """Give submissions under way 4 s to be answered and stored, and cancel the rest.

        Call it while the store still takes commands. Otherwise tasks that the provider has made would stay unknown.
        """
        under_way = tuple(self._under_way)
        if under_way:
            _, unanswered = await asyncio.wait(under_way, timeout=_END_SECONDS)
            for submitting in unanswered:
                submitting.cancel()
            if unanswered:
                await asyncio.wait(unanswered, timeout=_CUT_OFF_SECONDS)

    def _account(self, registration: Registration) -> Account:
        account = self._accounts.get(registration.provider)
        if account is None:
            names = ", ".join(sorted(self._accounts)) or "no provider"
            raise ReceiverError("wrong-field", f"task: the receiver submits with its own keys, and has keys of {names}")
        if not account.is_of(registration.client_key_id):
            raise ReceiverError(
                "wrong-field", "clientKeyId: expected that of the receiver's own key, which submits the task, or none"
            )
        try:
            account.dialect.create_task("", registration.task or {})
        except BadArgumentError as error:
            raise ReceiverError("wrong-field", f"task: {error}") from None
        return account

    async def _submit(
        self, account: Account, registration: Registration, owner: str, key: str | None, traceparent: str | None
    ) -> RegisteredTask | ReceiverError:
        """Return an error instead of raising it: in the owner's group it would end the receiver."""
        try:
            registered = await self._tasks.register(
                registration, owner=owner, idempotency_key=key, traceparent=traceparent, submitter=self._name
            )
            if registered.is_replayed or not registered.is_new:
                return refusal_of(registered.task) or registered
            task = registered.task
            try:
                with nullcontext() if self._tracing is None else self._tracing.creating(task):
                    task = await self._carry_out(account, registration, task)
            finally:
                if key is not None and task.id_text is None and task.outcome is None:
                    # The answer is unclear, or was cut off. From now on other receivers give out the task as it is.
                    with suppress(ReceiverError):
                        await self._tasks.end_submission(task.ref, self._name)
        except ReceiverError as error:
            return error
        except Exception:
            _log.exception("submission.failed", provider=registration.provider)
            return ReceiverError("server-error", "the receiver failed; the reason is in its log")
        return refusal_of(task) or RegisteredTask(task=task, is_new=True)

    async def _carry_out(self, account: Account, registration: Registration, task: TaskRecord) -> TaskRecord:
        clock = account.timing.clock
        left = min((task.deadline_at - task.created_at) / SECOND, _MOST_SECONDS)
        timeline = Timeline(_now, lambda: {"ref": task.ref, "provider": task.provider})
        try:
            submission = await self._submitters[task.provider].submit(
                registration.task or {},
                self._tasks.urls.of(task),
                deadline_at=clock() + left,
                timeline=timeline,
                app_id=registration.app_id,
            )
        except NotCarriedOutError as error:
            return await self._end_unmade(account, task, Failed(1, NOT_CARRIED_OUT, str(error)))
        except ProviderUnreachableError as error:
            return await self._end_unmade(account, task, Failed(1, NOT_SUBMITTED, str(error)))
        return await self._submitted(account, task, submission)

    async def _submitted(self, account: Account, task: TaskRecord, submission: Submission) -> TaskRecord:
        answer = submission.answer
        if isinstance(answer, UnclearError):
            _log.warning("task.submit_unclear", ref=task.ref, provider=task.provider, reason=str(answer))
            return task
        task_id, reading = answer.reading.task_id, answer.reading.reading
        _log.info("task.submitted", ref=task.ref, provider=task.provider, said=type(reading).__name__)
        if isinstance(reading, Pending):
            return task if task_id is None else await self._tasks.bind(task.ref, task_id)
        return await self._settle(account, task, task_id, reading)

    async def _end_unmade(self, account: Account, task: TaskRecord, failure: Failed) -> TaskRecord:
        """End a task that was not made, provisionally: a callback would prove the opposite."""
        answer = _answered(account, failure, self._now(), PROVISIONAL)
        return (await self._tasks.settle(task.ref, None, answer)).task

    async def _settle(
        self, account: Account, task: TaskRecord, task_id: TaskId | None, reading: Ready | Failed | Refused | Unknown
    ) -> TaskRecord:
        return (await self._tasks.settle(task.ref, task_id, _answered(account, reading, self._now()))).task


def refusal_of(task: TaskRecord) -> ReceiverError | None:
    """Return the error for the caller if the task failed at its submission, else None."""
    outcome = task.outcome
    if outcome is None or outcome.source != "submit" or outcome.status != "failed":
        return None
    extra = {"ref": task.ref, "providerErrorCode": outcome.error_code}
    text = f" ({outcome.error_description})" if outcome.error_description else ""
    if outcome.error_code == NOT_SUBMITTED:
        return ReceiverError("provider-unreachable", f"no task was made{text}", extra=extra, retry_after_seconds=10)
    return ReceiverError("provider-refused", f"{task.provider}: {outcome.error_code}{text}", extra=extra)


def _answered(account: Account, reading: Reading, now: int, trust: Trust = "polled") -> ReportedAnswer:
    return ReportedAnswer(
        reading=reading,
        origin=Origin("submit", trust, now, account.dialect.answer_life_seconds),
        polls=None,
        reported_at=now,
        unknown_final_after=0,
        size=0,
    )


def _now() -> datetime:
    return datetime.now(UTC)
