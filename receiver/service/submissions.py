"""Tasks that the receiver submits itself, with its own key, so that a caller in any language needs one request.

The record is made before the provider is called, and says that it was: after a crash in between nobody knows whether
there is a task, so it is never submitted again. It waits for its callback, and ends as RECEIVER_SUBMIT_UNKNOWN.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog

from client.errors import BadArgumentError, ProviderUnreachableError
from client.protocol.models import NOT_CARRIED_OUT, NOT_SUBMITTED, PROVISIONAL, Registration, Trust
from client.provider_api.http import NotCarriedOutError, UnclearError
from client.provider_api.submit import Submission, Submitter
from client.provider_api.timeline import Timeline
from client.providers.readings import Failed, Pending, Reading, Ready, Refused, TaskId, Unknown
from receiver.domain.outcomes import Origin
from receiver.domain.records import SECOND, TaskRecord
from receiver.domain.registrations import Answered, RegisteredTask
from receiver.errors import ReceiverError
from receiver.service.inbox import Inbox
from receiver.upstream.accounts import Account

__all__ = ["Submissions", "refusal_of"]

_MOST_SECONDS = 60.0
"""A caller is told after so long that the provider does not take the task now."""
_END_SECONDS = 4.0
"""At shutdown, when callers have gone, the provider has so long to answer."""

_log = structlog.get_logger()


class Submissions:
    """Submits tasks with the keys of the receiver; `owner` runs what must end even if its caller hangs up."""

    owner: asyncio.TaskGroup

    def __init__(self, inbox: Inbox, accounts: Mapping[str, Account]) -> None:
        self._inbox = inbox
        self._accounts = accounts
        # With the Idempotency-Key of each, and whose it is.
        self._under_way: dict[asyncio.Task[RegisteredTask | ReceiverError], tuple[str, str | None]] = {}
        self._submitters = {
            provider: Submitter(account.api, account.dialect, account.limiter, account.timing, app_id=None)
            for provider, account in accounts.items()
        }

    async def submit(self, registration: Registration, *, owner: str, idempotency_key: str | None) -> RegisteredTask:
        """Return the task, registered and submitted; one that this Idempotency-Key made before is not submitted again.

        Cancelling it does not take anything back.

        Raises:
            ReceiverError: as `Inbox.register`; `provider-refused` or `provider-unreachable` where no task was made;
                `idempotency-in-flight` also where the first caller has hung up.
        """
        if idempotency_key is not None and (owner, idempotency_key) in self._under_way.values():
            raise ReceiverError(
                "idempotency-in-flight", "Idempotency-Key: the provider has not answered yet", retry_after_seconds=1
            )
        account = self._account(registration)
        submitting = self.owner.create_task(
            self._submit(account, registration, owner, idempotency_key), name="submission"
        )
        self._under_way[submitting] = (owner, idempotency_key)
        submitting.add_done_callback(self._under_way.pop)
        await asyncio.wait([submitting])
        if submitting.cancelled():
            raise ReceiverError("shutting-down", "the task may have been submitted; ask for it by its Idempotency-Key")
        result = submitting.result()
        if isinstance(result, ReceiverError):
            raise result
        return result

    async def end(self) -> None:
        """Lets what is under way be answered and stored, for some seconds; what is not is given up.

        To be awaited while the store still takes commands: a task that the provider has made would be unknown else.
        """
        under_way = tuple(self._under_way)
        if under_way:
            _, unanswered = await asyncio.wait(under_way, timeout=_END_SECONDS)
            for submitting in unanswered:
                submitting.cancel()

    def _account(self, registration: Registration) -> Account:
        account = self._accounts.get(registration.provider)
        if account is None:
            known = ", ".join(sorted(self._accounts)) or "none"
            raise ReceiverError("wrong-field", f"task: the receiver has keys of {known} only, and submits with those")
        if not account.is_of(registration.client_key_id):
            raise ReceiverError("wrong-field", "clientKeyId: the receiver submits with its own key, which is another")
        try:
            account.dialect.create_task("", registration.task or {})
        except BadArgumentError as error:
            raise ReceiverError("wrong-field", f"task: {error}") from None
        return account

    async def _submit(
        self, account: Account, registration: Registration, owner: str, idempotency_key: str | None
    ) -> RegisteredTask | ReceiverError:
        """Never raises: an error in the owner's group would end the receiver."""
        try:
            registered = await self._inbox.register(registration, owner=owner, idempotency_key=idempotency_key)
            if registered.is_replayed or not registered.is_new:
                return refusal_of(registered.task) or registered
            task = await self._carry_out(account, registration, registered.task)
        except ReceiverError as error:
            return error
        except Exception:
            _log.exception("submission.failed", provider=registration.provider)
            return ReceiverError("server-error", "the receiver failed; its log says why")
        return refusal_of(task) or RegisteredTask(task=task, is_new=True)

    async def _carry_out(self, account: Account, registration: Registration, task: TaskRecord) -> TaskRecord:
        clock = account.timing.clock
        left = min((task.deadline_at - task.created_at) / SECOND, _MOST_SECONDS)
        timeline = Timeline(_now, lambda: {"ref": task.ref, "provider": task.provider})
        try:
            submission = await self._submitters[task.provider].submit(
                registration.task or {},
                self._inbox.callback_url(task),
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
        answered = submission.answer
        if isinstance(answered, UnclearError):
            _log.warning("task.submit_unclear", ref=task.ref, provider=task.provider, reason=str(answered))
            return task
        task_id, said = answered.reading.task_id, answered.reading.reading
        _log.info("task.submitted", ref=task.ref, provider=task.provider, said=type(said).__name__)
        if isinstance(said, Pending):
            return task if task_id is None else await self._inbox.bind(task.ref, task_id)
        return await self._settle(account, task, task_id, said)

    async def _end_unmade(self, account: Account, task: TaskRecord, said: Failed) -> TaskRecord:
        """End a task provisionally: something on the way says that it was not made, and a callback would prove it."""
        answered = _answered(account, said, self._inbox.now(), PROVISIONAL)
        return (await self._inbox.settle(task.ref, None, answered)).task

    async def _settle(
        self, account: Account, task: TaskRecord, task_id: TaskId | None, said: Ready | Failed | Refused | Unknown
    ) -> TaskRecord:
        return (await self._inbox.settle(task.ref, task_id, _answered(account, said, self._inbox.now()))).task


def refusal_of(task: TaskRecord) -> ReceiverError | None:
    """What the caller of a task is told that failed as it was submitted; None for all others."""
    outcome = task.outcome
    if outcome is None or outcome.source != "submit" or outcome.status != "failed":
        return None
    extra = {"ref": task.ref, "providerErrorCode": outcome.error_code}
    text = f" ({outcome.error_description})" if outcome.error_description else ""
    if outcome.error_code == NOT_SUBMITTED:
        return ReceiverError("provider-unreachable", f"no task was made{text}", extra=extra, retry_after_seconds=10)
    return ReceiverError("provider-refused", f"{task.provider}: {outcome.error_code}{text}", extra=extra)


def _answered(account: Account, said: Reading, now: int, trust: Trust = "polled") -> Answered:
    return Answered(
        reading=said,
        origin=Origin("submit", trust, now, account.dialect.answer_life_seconds),
        polls=None,
        reported_at=now,
        unknown_final_after=0,
        size=0,
    )


def _now() -> datetime:
    return datetime.now(UTC)
