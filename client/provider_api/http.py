"""Requests to a provider over aiohttp, for any dialect: createTask, getTaskResult, getBalance and reports.

JSON is read whatever the content type. Its meaning follows from the HTTP status and the body together
(`client.providers.meaning`). Anything else than an answer becomes one of four errors. They differ in the state that the
provider may be in.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import aiohttp
from yarl import URL

from client.errors import ProviderUnreachableError, UnreadableError
from client.protocol.models import MAX_ANSWER_BYTES
from client.provider_api.limits import KeyLimiter
from client.provider_api.redaction import Redaction
from client.provider_api.resolving import CheckedResolver, PrivateAddressError
from client.provider_api.unlisted import UnlistedCodes
from client.providers import Call, Dialect
from client.providers.meaning import Meaning, meaning_of
from client.providers.readings import Failed, Reading, Refused, Submitted, TaskId, Unknown

__all__ = [
    "NotCarriedOutError",
    "NotSentError",
    "ProviderAnswer",
    "ProviderApi",
    "ProviderBusyError",
    "UnclearError",
    "open_provider_session",
]

Content = TypeVar("Content")

_MAX_CONNECTIONS = 100
_CONNECT_SECONDS = 10.0
_CREATE_SECONDS = 60.0
_ASK_SECONDS = 20.0
_MAX_RETRY_AFTER_SECONDS = 600.0
_LONGEST_URL = 300


class NotSentError(ProviderUnreachableError):
    """No connection was made, so the provider cannot have taken the request."""


class ProviderBusyError(ProviderUnreachableError):
    """The provider did not take the request: HTTP 429, 425 or 503 without an answer in its dialect.

    `retry_after_seconds` is the pause it asked for, or None.
    """

    def __init__(self, text: str, retry_after_seconds: float | None, status: int | None = None) -> None:
        super().__init__(text, status)
        self.retry_after_seconds = retry_after_seconds


class NotCarriedOutError(ProviderUnreachableError):
    """The request was not carried out, by its HTTP status, without an answer in the dialect. The text names the URL.

    The usual causes are a wrong address, a firewall or a redirect. The same request would fail again.
    """


class UnclearError(ProviderUnreachableError):
    """The request may have been carried out: the connection broke, or the answer cannot be read."""


@dataclass(frozen=True, slots=True)
class ProviderAnswer(Generic[Content]):
    """A provider's answer: its JSON, and the dialect's reading of it.

    `retry_after_seconds` is the pause asked for in the answer's headers, or None.
    """

    body: dict[str, Any]
    reading: Content
    retry_after_seconds: float | None = None


class ProviderApi:
    """One provider with one client key. At most 100 requests are under way at once, and the others wait.

    `limiter` counts the requests under way and the errors, `unlisted` the error codes missing in the dialect.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        dialect: Dialect,
        client_key: str,
        base_url: str,
        limiter: KeyLimiter | None = None,
        unlisted: UnlistedCodes | None = None,
    ) -> None:
        self._session = session
        self._dialect = dialect
        self._client_key = client_key
        self._base_url = base_url.rstrip("/")
        self._limiter = limiter
        self._unlisted = unlisted or UnlistedCodes()
        self._redact = Redaction(client_key)
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def create_task(
        self, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> ProviderAnswer[Submitted]:
        """Send createTask and return the answer. After a cancellation the task may exist.

        Raises:
            NotSentError, NotCarriedOutError, ProviderBusyError: no task was made.
            UnclearError: a task may have been made.
        """
        call = self._dialect.create_task(self._client_key, task, callback_url=callback_url, app_id=app_id)
        return await self._ask(call, self._dialect.read_create_task, call.seconds or _CREATE_SECONDS)

    async def get_task_result(self, task_id: TaskId, *, seconds: float = _ASK_SECONDS) -> ProviderAnswer[Reading]:
        """Send getTaskResult and return the answer. The request takes at most `seconds`.

        Raises:
            ProviderUnreachableError: nothing was learned about the task.
        """
        call = self._dialect.get_task_result(self._client_key, task_id)
        limit = max(0.0, min(seconds, _ASK_SECONDS))
        return await self._ask(call, self._dialect.read_task_result, limit, is_poll=True)

    async def get_balance(self) -> ProviderAnswer[float | Reading]:
        """Send getBalance and return the answer.

        Raises:
            ProviderUnreachableError: there was no answer.
        """
        call = self._dialect.get_balance(self._client_key)
        return await self._ask(call, self._dialect.read_balance, _ASK_SECONDS)

    async def report(self, task_id: TaskId, task_type: str | None, *, is_good: bool) -> ProviderAnswer[Reading]:
        """Report an answer as right or wrong. The reading is `Pending` if the provider took the report.

        Raises:
            BadArgumentError: the dialect has no such request, for any type of task or for this one.
            ProviderUnreachableError: there was no answer.
        """
        call = self._dialect.report(self._client_key, task_id, task_type, is_good=is_good)
        return await self._ask(call, self._dialect.read_report, _ASK_SECONDS)

    async def ask(self, call: Call, read: Callable[[Any], Reading]) -> ProviderAnswer[Reading]:
        """Send any other request and return the answer, as `read` understands it.

        Raises:
            ProviderUnreachableError: there was no answer.
        """
        return await self._ask(call, read, _ASK_SECONDS)

    async def _ask(
        self, call: Call, read: Callable[[Any], Content], seconds: float, *, is_poll: bool = False
    ) -> ProviderAnswer[Content]:
        if self._limiter is None:
            return await self._request(call, read, seconds, is_poll=is_poll)
        with self._limiter.under_way():
            try:
                answer = await self._request(call, read, seconds, is_poll=is_poll)
            except (NotCarriedOutError, ProviderBusyError, UnclearError):
                # The provider may have answered with an error, and counts it then.
                self._limiter.failed()
                raise
            if _is_error(answer.reading):
                self._limiter.failed()
            return answer

    async def _request(
        self, call: Call, read: Callable[[Any], Content], seconds: float, *, is_poll: bool
    ) -> ProviderAnswer[Content]:
        name = f"{self._dialect.provider}: {call.name}"
        try:
            # The limit begins with the request, not in the queue: waiting here is no silence of the provider.
            async with self._slots, asyncio.timeout(seconds):
                status, retry_after, raw = await self._send(call)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSentError(f"{name}: no connection ({_reason(error)})") from error
        except TimeoutError as error:
            raise UnclearError(f"{name}: no answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnclearError(f"{name}: the connection broke ({_reason(error)})") from error
        try:
            body = self._redact(self._parse(raw))
            reading = read(body)
        except UnreadableError as error:
            raise self._no_answer(call, status, retry_after, meaning_of(status, None, is_poll=is_poll)) from error
        self._unlisted.note(self._dialect, reading)
        meaning = meaning_of(status, reading, is_poll=is_poll)
        if meaning is not Meaning.ANSWER:
            raise self._no_answer(call, status, retry_after, meaning)
        return ProviderAnswer(body, reading, retry_after)

    def _no_answer(
        self, call: Call, status: int, retry_after: float | None, meaning: Meaning
    ) -> ProviderUnreachableError:
        name = f"{self._dialect.provider}: {call.name}"
        text = f"{name}: HTTP {status} without an answer of this provider, from {self._redacted_url(call)}"
        if meaning is Meaning.BUSY:
            return ProviderBusyError(text, retry_after, status)
        if meaning is Meaning.NOT_CARRIED_OUT:
            consequence = "it was not carried out; check the URL, and firewalls before it"
            return NotCarriedOutError(f"{text}: {consequence}", status)
        return UnclearError(text, status)

    def _redacted_url(self, call: Call) -> str:
        """Return the URL of a request without its secrets: query, user, password and client key."""
        url = URL(f"{self._base_url}{call.path}", encoded=True).with_query(None).with_fragment(None).with_user(None)
        redacted: str = self._redact(str(url))
        return redacted[:_LONGEST_URL]

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


def open_provider_session(public_hosts: Collection[str] = ()) -> aiohttp.ClientSession:
    """Return a session for a provider. Its limits are the ones of `ProviderApi`, not aiohttp's own.

    A connection to one of `public_hosts` is refused if the host resolves to an address of a private network.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, resolver=CheckedResolver(public_hosts)),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _is_error(reading: object) -> bool:
    return isinstance(reading.reading if isinstance(reading, Submitted) else reading, Failed | Refused | Unknown)


def _read_seconds(retry_after: str | None) -> float | None:
    """Return `Retry-After` in seconds (RFC 9110, 10.2.3); None for its date form, which would need a clock."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return min(seconds, _MAX_RETRY_AFTER_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None


def _reason(error: Exception) -> str:
    """Return the cause of a failed connection, without the address: that may hold more than a host."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, PrivateAddressError):
        return str(cause)
    errno = getattr(cause, "errno", None)
    return os.strerror(errno) if isinstance(errno, int) and errno > 0 else type(cause).__name__
