"""The objects that all tasks of a client share, opened and closed with it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from client.config.arguments import ClientArguments
from client.provider_api.http import ProviderApi, open_provider_session
from client.provider_api.limits import KeyLimiter
from client.provider_api.submit import Submitter
from client.provider_api.timing import Timing
from client.providers import Dialect
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.receiver_api.resilience import ResilientReceiver

__all__ = ["ClientResources", "open_resources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientResources:
    """The objects shared by all tasks of a client. A code in `warned_codes` is not logged as a warning again."""

    dialect: Dialect
    provider: ProviderApi
    submitter: Submitter
    receiver: ResilientReceiver | None
    limiter: KeyLimiter
    timing: Timing
    first_poll_seconds: float | None
    warned_codes: set[str] = field(default_factory=set)


async def open_resources(
    arguments: ClientArguments, timing: Timing, stack: AsyncExitStack, owner: asyncio.TaskGroup
) -> ClientResources:
    """Open the resources for these arguments. `stack` closes them, and `owner` runs their background tasks."""
    session = await stack.enter_async_context(open_provider_session())
    limits = replace(arguments.dialect.key_limits, requests_per_second=arguments.requests_per_second)
    limiter = KeyLimiter(limits, timing, arguments.dialect.provider)
    provider = ProviderApi(session, arguments.dialect, arguments.client_key, arguments.provider_url, limiter)
    connection = arguments.receiver
    if connection is None and arguments.receiver_url is not None:
        session = await stack.enter_async_context(open_receiver_session())
        connection = ReceiverApi(session, arguments.receiver_url, arguments.receiver_key)
    return ClientResources(
        dialect=arguments.dialect,
        provider=provider,
        submitter=Submitter(provider, arguments.dialect, limiter, timing, app_id=arguments.app_id),
        receiver=None if connection is None else ResilientReceiver(connection, owner, timing),
        limiter=limiter,
        timing=timing,
        first_poll_seconds=arguments.first_poll_seconds,
    )
