"""What a `TaskClient` is made with: arguments, and the environment for what is not given, all checked at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from client.config.providers import load_providers
from client.config.texts import check_key, read_variable, tidy
from client.errors import BadArgumentError
from client.protocol.connection import ReceiverConnection
from client.protocol.models import Registration
from client.providers import DIALECTS, Dialect, dialect_named

__all__ = [
    "PROVIDERS_FILE",
    "RECEIVER_KEY",
    "RECEIVER_URL",
    "ClientArguments",
    "Given",
    "check_url",
    "client_key_of",
    "key_variable",
    "read_arguments",
    "read_receiver",
    "url_variable",
]

RECEIVER_URL = "CALLBACK_RECEIVER_URL"
PROVIDERS_FILE = "CALLBACK_RECEIVER_PROVIDERS_FILE"
RECEIVER_KEY = "CALLBACK_RECEIVER_KEY"


def key_variable(provider: str) -> str:
    """Return the environment variable that holds the client key of a provider."""
    return f"{provider.upper()}_CLIENT_KEY"


def url_variable(provider: str) -> str:
    """Return the environment variable that may hold another endpoint of a provider, such as a sandbox."""
    return f"{provider.upper()}_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the caller gave; see `TaskClient`."""

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
        """Whether tasks are registered anywhere."""
        return self.receiver is not None or self.receiver_url is not None

    @property
    def has_callback(self) -> bool:
        """Whether a callback may bring an answer."""
        return self.has_receiver and self.dialect.callback is not None

    def registration(self, *, timeout_seconds: float | None, tags: Iterable[str], **fields: Any) -> Registration:
        """What a task is registered with; its tags are the client's and its own.

        Raises:
            BadArgumentError: a field is wrong; the text names it.
        """
        if isinstance(tags, str):
            raise BadArgumentError("tags: expected several texts, got one")
        try:
            return Registration(
                provider=self.dialect.provider,
                tags=tuple(dict.fromkeys((*self.tags, *tags))),
                timeout_seconds=self.timeout_seconds if timeout_seconds is None else timeout_seconds,
                client_key_id=hashlib.sha256(self.client_key.encode()).hexdigest()[:8],
                **fields,
            )
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in detail["loc"])
            raise BadArgumentError(f"{name}: {detail['msg'].removeprefix('Value error, ')}") from None

    def check_task(self, task: Mapping[str, Any]) -> None:
        """Refuses a task that cannot be sent.

        Raises:
            BadArgumentError: it has no type, is no JSON, or is none that this provider takes.
        """
        if not isinstance(task.get("type"), str) or not task["type"]:
            raise BadArgumentError("type: expected the type of the task, such as ImageToTextTask")
        try:
            self.dialect.create_task("", task)
        except BadArgumentError as error:
            raise BadArgumentError(f"task: {error}") from None


def _check_api(dialect: Dialect) -> None:
    """Refuses a provider of which only the callbacks are known, before it is asked for an address in vain."""
    if not dialect.has_api:
        raise BadArgumentError(
            f"{dialect.provider}: how it is asked is not known, only its callbacks are; read_results brings those"
        )


def read_arguments(given: Given, dialects: Mapping[str, Dialect] | None, environ: Mapping[str, str]) -> ClientArguments:
    """Return the arguments of a client; a variable that is set to nothing counts as not set.

    Without `dialects` the shipped ones are known, and those of the file in CALLBACK_RECEIVER_PROVIDERS_FILE.

    Raises:
        BadArgumentError: one is wrong or missing; the text names it, or the variable that could hold it.
    """
    dialect = dialect_named(given.provider, _known(environ) if dialects is None else dialects)
    _check_api(dialect)
    if given.app_id is not None and not dialect.has_app_id:
        raise BadArgumentError(f"app_id: {dialect.provider} takes none")
    client_key = client_key_of(dialect.provider, given.client_key, environ)
    receiver_url, receiver_key = _receiver(given, environ)
    window = dialect.polls.window_seconds
    first_poll_seconds = _positive("first_poll_seconds", given.first_poll_seconds)
    if first_poll_seconds is not None and first_poll_seconds >= window:
        raise BadArgumentError(f"first_poll_seconds: {dialect.provider} forgets answers after {window:g} s")
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
    # The client's own tags and time are checked as those of each task are.
    return replace(arguments, tags=arguments.registration(timeout_seconds=None, tags=given.tags).tags)


def client_key_of(provider: str, given: str | None, environ: Mapping[str, str]) -> str:
    """Return the client key of a provider: the given one, or that of the environment.

    Raises:
        BadArgumentError: it is wrong or missing; the text names the variable.
    """
    variable = key_variable(provider)
    client_key = _key(variable, given, environ)
    if client_key is None:
        raise BadArgumentError(f"{variable}: expected the client key of {provider} in it")
    return client_key


def read_receiver(url: str | None, key: str | None, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the address of the receiver, which has to be known, and the key to it, for those that only read.

    Raises:
        BadArgumentError: one is wrong, or there is no address; the text names the variable.
    """
    address = url or read_variable(RECEIVER_URL, environ)
    if not address:
        raise BadArgumentError(f"{RECEIVER_URL}: expected the address of the receiver in it")
    return check_url(RECEIVER_URL, address), _key(RECEIVER_KEY, key, environ)


def _known(environ: Mapping[str, str]) -> Mapping[str, Dialect]:
    path = read_variable(PROVIDERS_FILE, environ)
    return load_providers(path) if path else DIALECTS


def _receiver(given: Given, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the address of the receiver and the key to it; neither, where the receiver itself was given."""
    if given.receiver is None:
        url = given.receiver_url or read_variable(RECEIVER_URL, environ)
        return check_url(RECEIVER_URL, url) if url else None, _key(RECEIVER_KEY, given.receiver_key, environ)
    if given.receiver_url or given.receiver_key:
        raise BadArgumentError("receiver: expected either a receiver or the address and key of one, got both")
    return None, None


def _provider_url(given: Given, environ: Mapping[str, str], dialect: Dialect) -> str:
    if given.provider_url:
        return check_url("provider_url", given.provider_url)
    variable = url_variable(dialect.provider)
    address = read_variable(variable, environ) or dialect.base_url
    if not address:
        raise BadArgumentError(f"{variable}: no endpoint of {dialect.provider} is known; expected its base URL in it")
    return check_url(variable, address)


def _key(variable: str, given: str | None, environ: Mapping[str, str]) -> str | None:
    try:
        return check_key(given or environ.get(variable) or "") or None
    except ValueError as error:
        raise BadArgumentError(f"{variable}: {error}") from None


def check_url(name: str, url: str) -> str:
    """Return the address, without white space around it and a slash at its end; `name` is what it is called in errors.

    Raises:
        BadArgumentError: it is none, or has a user, a query or a fragment.
    """
    try:
        url = tidy(url)
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username is not None:
        raise BadArgumentError(f"{name}: expected http:// or https:// and a host, without user, query and fragment")
    return url.rstrip("/")


def _positive(name: str, number: float | None) -> float | None:
    if number is not None and not (math.isfinite(number) and number > 0):
        raise BadArgumentError(f"{name}: expected a number above 0, got {number!r}")
    return number
