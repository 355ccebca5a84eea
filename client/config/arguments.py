"""Arguments of a `TaskClient`, completed from the environment and checked at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from client.config.environment import (
    PROVIDERS_FILE,
    RECEIVER_KEY,
    RECEIVER_URL,
    check_url,
    client_key_of,
    read_key,
    read_variable,
    url_variable,
)
from client.config.providers import load_providers
from client.errors import BadArgumentError
from client.protocol.connection import ReceiverConnection
from client.protocol.models import Registration, client_key_id
from client.providers import DIALECTS, Dialect, dialect_named

__all__ = ["ClientArguments", "GivenArguments", "read_arguments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenArguments:
    """Arguments as the caller gave them; see `TaskClient`."""

    provider: str
    client_key: str | None = field(default=None, repr=False)
    receiver_url: str | None = None
    receiver_key: str | None = field(default=None, repr=False)
    receiver: ReceiverConnection | None = None
    provider_url: str | None = None
    app_id: str | None = None
    first_poll_seconds: float | None = None
    requests_per_second: float | None = None
    timeout_seconds: float | None = None
    tags: Iterable[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientArguments:
    """The checked arguments of a client."""

    dialect: Dialect
    client_key: str = field(repr=False)
    provider_url: str
    receiver_url: str | None
    receiver_key: str | None = field(repr=False)
    receiver: ReceiverConnection | None
    app_id: str | None
    first_poll_seconds: float | None
    requests_per_second: float
    timeout_seconds: float
    tags: tuple[str, ...] = ()

    @property
    def has_receiver(self) -> bool:
        """True if tasks are registered with a receiver."""
        return self.receiver is not None or self.receiver_url is not None

    @property
    def has_callback(self) -> bool:
        """True if a callback may bring an answer."""
        return self.has_receiver and self.dialect.callback is not None

    def registration(self, *, timeout_seconds: float | None, tags: Iterable[str], **fields: Any) -> Registration:
        """Return the registration of a task. Its tags are the client's and its own.

        Raises:
            BadArgumentError: a field is wrong. The text names it.
        """
        if isinstance(tags, str):
            raise BadArgumentError(f"tags: expected several texts, got one: {tags!r}")
        try:
            return Registration(
                provider=self.dialect.provider,
                tags=tuple(dict.fromkeys((*self.tags, *tags))),
                timeout_seconds=self.timeout_seconds if timeout_seconds is None else timeout_seconds,
                client_key_id=client_key_id(self.client_key),
                **fields,
            )
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in detail["loc"])
            raise BadArgumentError(f"{name}: {detail['msg'].removeprefix('Value error, ')}") from None

    def check_task(self, task: Mapping[str, Any]) -> None:
        """Check that a task can be sent.

        Raises:
            BadArgumentError: it has no type, is not JSON, or does not fit this provider.
        """
        if not isinstance(task.get("type"), str) or not task["type"]:
            raise BadArgumentError(f"type: expected a task type such as ImageToTextTask, got {task.get('type')!r}")
        try:
            self.dialect.create_task("", task)
        except BadArgumentError as error:
            raise BadArgumentError(f"task: {error}") from None


def read_arguments(
    given: GivenArguments, dialects: Mapping[str, Dialect] | None, environ: Mapping[str, str]
) -> ClientArguments:
    """Return the arguments of a client. An empty variable counts as missing.

    If `dialects` is None, the providers are the shipped ones and those in the file CALLBACK_RECEIVER_PROVIDERS_FILE.

    Raises:
        BadArgumentError: one is wrong or missing. The text names it, or its variable.
    """
    dialect = dialect_named(given.provider, _dialects(environ) if dialects is None else dialects)
    if not dialect.has_api:
        raise BadArgumentError(
            f"{dialect.provider}: only its callbacks are known, not its API; read_results reads those callbacks"
        )
    if given.app_id is not None and not dialect.has_app_id:
        raise BadArgumentError(f"app_id: {dialect.provider} takes none, got {given.app_id!r}")
    client_key = client_key_of(dialect.provider, given.client_key, environ)
    receiver_url, receiver_key = _receiver(given, environ)
    window = dialect.polls.window_seconds
    first_poll_seconds = _positive("first_poll_seconds", given.first_poll_seconds)
    if first_poll_seconds is not None and first_poll_seconds >= window:
        raise BadArgumentError(
            f"first_poll_seconds: expected less than {window:g}, because {dialect.provider} forgets answers then, "
            f"got {first_poll_seconds:g}"
        )
    rate = _positive("requests_per_second", given.requests_per_second)
    timeout_seconds = _positive("timeout_seconds", given.timeout_seconds)
    arguments = ClientArguments(
        dialect=dialect,
        client_key=client_key,
        provider_url=_provider_url(given, environ, dialect),
        receiver_url=receiver_url,
        receiver_key=receiver_key,
        receiver=given.receiver,
        app_id=given.app_id,
        first_poll_seconds=first_poll_seconds,
        requests_per_second=rate or dialect.key_limits.requests_per_second,
        timeout_seconds=timeout_seconds or window + dialect.polls.grace_seconds,
    )
    # A registration checks the client's own tags and time as it does for each task.
    return replace(arguments, tags=arguments.registration(timeout_seconds=None, tags=given.tags).tags)


def _dialects(environ: Mapping[str, str]) -> Mapping[str, Dialect]:
    path = read_variable(PROVIDERS_FILE, environ)
    return load_providers(path) if path else DIALECTS


def _receiver(given: GivenArguments, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the receiver's address and the key to it. Both are None if the receiver itself was given."""
    if given.receiver is None:
        url = given.receiver_url or read_variable(RECEIVER_URL, environ)
        return check_url(RECEIVER_URL, url) if url else None, read_key(RECEIVER_KEY, given.receiver_key, environ)
    if given.receiver_url or given.receiver_key:
        raise BadArgumentError("receiver: expected either a receiver or the address and key of one, got both")
    return None, None


def _provider_url(given: GivenArguments, environ: Mapping[str, str], dialect: Dialect) -> str:
    if given.provider_url:
        return check_url("provider_url", given.provider_url)
    variable = url_variable(dialect.provider)
    address = read_variable(variable, environ) or dialect.base_url
    if not address:
        raise BadArgumentError(
            f"{variable}: the endpoint of {dialect.provider} is not known, expected its base URL in this variable"
        )
    return check_url(variable, address)


def _positive(name: str, number: float | None) -> float | None:
    if number is not None and not (math.isfinite(number) and number > 0):
        raise BadArgumentError(f"{name}: expected a number above 0, got {number!r}")
    return number
