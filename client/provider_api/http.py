"""createTask, getTaskResult and getBalance over aiohttp, for any dialect.

JSON is read whatever the content type; the HTTP status and the body together say what it means
(`client.providers.meaning`). What is no answer becomes one of four errors, which differ in what may have happened over
there.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import aiohttp
from yarl import URL

from client.errors import ProviderUnreachableError, UnreadableError
from client.protocol.models import MAX_ANSWER_BYTES
from client.provider_api.code_counts import UnlistedCodes
from client.provider_api.limits import KeyGate
from client.provider_api.redaction import Redaction
from client.providers import Call, Dialect
from client.providers.meaning import Meaning, meaning_of
from client.providers.readings import Failed, Reading, Refused, Submitted, TaskId, Unknown

__all__ = [
    "Answered",
    "NotCarriedOutError",
    "NotSentError",
    "ProviderApi",
    "ProviderBusyError",
    "UnclearError",
    "open_provider_session",
]

Said = TypeVar("Said")

_MAX_CONNECTIONS = 100
_CONNECT_SECONDS = 10.0
_CREATE_SECONDS = 60.0
_ASK_SECONDS = 20.0
_MAX_RETRY_AFTER_SECONDS = 600.0
_LONGEST_URL = 300


class NotSentError(ProviderUnreachableError):
    """No connection came about: the provider cannot have taken the request."""


class ProviderBusyError(ProviderUnreachableError):
    """The answer was 429, 425 or 503 without a word of the dialect: the provider did not take the request.

    `retry_after_seconds` is what it asked for, None where it did not say.
    """

    def __init__(self, text: str, retry_after_seconds: float | None, status: int | None = None) -> None:
        super().__init__(text, status)
        self.retry_after_seconds = retry_after_seconds


class NotCarriedOutError(ProviderUnreachableError):
    """A status says that the request was not carried out, without a word of the dialect; the text names the URL.

    It is a wrong address, a firewall or a redirect, most often: to repeat it at once gives the same.
    """


class UnclearError(ProviderUnreachableError):
    """The request may or may not have been carried out: the connection broke, or the answer cannot be read."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[Said]):
    """A provider's answer, verbatim as JSON, and what the dialect reads in it.

    `retry_after_seconds` is the pause that the answer's headers ask for, if they do.
    """

    answer: dict[str, Any]
    said: Said
    retry_after_seconds: float | None = None


class ProviderApi:
    """One provider with one client key. At most 100 requests are under way at once; the others wait their turn.

    `gate` is told what is under way, and of each answer that is an error; `unlisted` of codes that the dialect does
    not list.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        dialect: Dialect,
        client_key: str,
        base_url: str,
        gate: KeyGate | None = None,
        unlisted: UnlistedCodes | None = None,
    ) -> None:
        self._session = session
        self._dialect = dialect
        self._client_key = client_key
        self._base_url = base_url.rstrip("/")
        self._gate = gate
        self._unlisted = unlisted or UnlistedCodes()
        self._without_key = Redaction(client_key)
        self._room = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def create_task(
        self, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> Answered[Submitted]:
        """What createTask answered. Cancelling it leaves open whether a task was made.

        Raises:
            NotSentError, NotCarriedOutError, ProviderBusyError: no task was made.
            UnclearError: it is not known whether one was.
        """
        call = self._dialect.create_task(self._client_key, task, callback_url=callback_url, app_id=app_id)
        return await self._ask(call, self._dialect.read_create_task, call.seconds or _CREATE_SECONDS)

    async def get_task_result(self, task_id: TaskId, *, seconds: float = _ASK_SECONDS) -> Answered[Reading]:
        """What getTaskResult answered; at most `seconds` are waited for it.

        Raises:
            ProviderUnreachableError: nothing was learned about the task.
        """
        call = self._dialect.get_task_result(self._client_key, task_id)
        limit = max(0.0, min(seconds, _ASK_SECONDS))
        return await self._ask(call, self._dialect.read_task_result, limit, is_poll=True)

    async def get_balance(self) -> Answered[float | Reading]:
        """What getBalance answered.

        Raises:
            ProviderUnreachableError: there was no answer.
        """
        call = self._dialect.get_balance(self._client_key)
        return await self._ask(call, self._dialect.read_balance, _ASK_SECONDS)

    async def report(self, task_id: TaskId, task_type: str | None, *, is_good: bool) -> Answered[Reading]:
        """What the provider answered to the report of a right or a wrong answer: `Pending` where it was taken.

        Raises:
            BadArgumentError: no way to report is known of this provider, or none for this type of task.
            ProviderUnreachableError: there was no answer.
        """
        call = self._dialect.report(self._client_key, task_id, task_type, is_good=is_good)
        return await self._ask(call, self._dialect.read_report, _ASK_SECONDS)

    async def ask(self, call: Call, read: Callable[[Any], Reading]) -> Answered[Reading]:
        """What the provider answered to a request that no method here stands for; `read` tells what it says.

        Raises:
            ProviderUnreachableError: there was no answer.
        """
        return await self._ask(call, read, _ASK_SECONDS)

    async def _ask(
        self, call: Call, read: Callable[[Any], Said], seconds: float, *, is_poll: bool = False
    ) -> Answered[Said]:
        if self._gate is None:
            return await self._answered(call, read, seconds, is_poll=is_poll)
        with self._gate.under_way():
            try:
                answered = await self._answered(call, read, seconds, is_poll=is_poll)
            except (NotCarriedOutError, ProviderBusyError, UnclearError):
                # It may have been an answer, and would then count over there.
                self._gate.failed()
                raise
            if _is_error(answered.said):
                self._gate.failed()
            return answered

    async def _answered(
        self, call: Call, read: Callable[[Any], Said], seconds: float, *, is_poll: bool
    ) -> Answered[Said]:
        """The answer. Its limit begins with the request, not in the queue, so that waiting never looks like silence."""
        name = f"{self._dialect.provider}: {call.name}"
        try:
            async with self._room, asyncio.timeout(seconds):
                status, retry_after, sent = await self._send(call)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSentError(f"{name}: no connection ({_reason(error)})") from error
        except TimeoutError as error:
            raise UnclearError(f"{name}: no answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnclearError(f"{name}: the connection broke ({_reason(error)})") from error
        try:
            answer = self._without_key(self._parse(sent))
            said = read(answer)
        except UnreadableError as error:
            raise self._no_answer(call, status, retry_after, meaning_of(status, None, is_poll=is_poll)) from error
        self._unlisted.note(self._dialect, said)
        meaning = meaning_of(status, said, is_poll=is_poll)
        if meaning is not Meaning.ANSWER:
            raise self._no_answer(call, status, retry_after, meaning)
        return Answered(answer, said, retry_after)

    def _no_answer(
        self, call: Call, status: int, retry_after: float | None, meaning: Meaning
    ) -> ProviderUnreachableError:
        name = f"{self._dialect.provider}: {call.name}"
        text = f"{name}: HTTP {status} without an answer of this provider, from {self._shown(call)}"
        if meaning is Meaning.BUSY:
            return ProviderBusyError(text, retry_after, status)
        if meaning is Meaning.NOT_CARRIED_OUT:
            consequence = "it was not carried out; check the URL, and firewalls before it"
            return NotCarriedOutError(f"{text}: {consequence}", status)
        return UnclearError(text, status)

    def _shown(self, call: Call) -> str:
        """Return the URL of a request without what may be secret: its query, user and password, and the key."""
        url = URL(f"{self._base_url}{call.path}", encoded=True).with_query(None).with_fragment(None).with_user(None)
        shown: str = self._without_key(str(url))
        return shown[:_LONGEST_URL]

    async def _send(self, call: Call) -> tuple[int, float | None, bytes]:
        url = URL(f"{self._base_url}{call.path}", encoded=True).extend_query(call.query)
        # A redirect would give the key to another address.
        async with self._session.request(
            call.method, url, data=call.body, headers=call.headers, allow_redirects=False
        ) as response:
            raw = bytearray()
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    response.close()
                    break
            return response.status, _read_seconds(response.headers.get("Retry-After")), bytes(raw)

    def _parse(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > MAX_ANSWER_BYTES:
            raise UnreadableError(f"more than {MAX_ANSWER_BYTES} bytes")
        return self._dialect.parse_answer(raw)


def open_provider_session() -> aiohttp.ClientSession:
    """Return a session for a provider; its limits are those of `ProviderApi`, so that none of aiohttp's own cuts in."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _is_error(said: object) -> bool:
    return isinstance(said.reading if isinstance(said, Submitted) else said, Failed | Refused | Unknown)


def _read_seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds (RFC 9110, 10.2.3); its form as a date is not worth a clock here."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return min(seconds, _MAX_RETRY_AFTER_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None


def _reason(error: Exception) -> str:
    """Why a connection failed, without the address: it may hold more than a host."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    errno = getattr(cause, "errno", None)
    return os.strerror(errno) if isinstance(errno, int) and errno > 0 else type(cause).__name__
