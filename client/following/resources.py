"""What all tasks of a client share, opened and closed with it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from client.config.arguments import ClientArguments
from client.protocol.connection import ReceiverConnection
from client.provider_api.http import ProviderApi, open_provider_session
from client.provider_api.limits import KeyLimiter
from client.provider_api.submit import Submitter
from client.provider_api.timing import Timing
from client.providers import Dialect
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.receiver_api.resilience import ReceiverLink

__all__ = ["Surroundings", "open_surroundings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all tasks of a client share. `said_once` holds the warnings that were given already."""

    dialect: Dialect
    provider: ProviderApi
    submitter: Submitter
    receiver: ReceiverConnection | None
    link: ReceiverLink | None
    gate: KeyLimiter
    timing: Timing
    first_poll_seconds: float | None
    said_once: set[str] = field(default_factory=set)


async def open_surroundings(
    arguments: ClientArguments, timing: Timing, stack: AsyncExitStack, owner: asyncio.TaskGroup
) -> Surroundings:
    """The surroundings that the arguments ask for; `stack` closes what is opened, `owner` runs what has to run."""
    session = await stack.enter_async_context(open_provider_session())
    limits = replace(arguments.dialect.key_limits, requests_per_second=arguments.requests_per_second)
    gate = KeyLimiter(limits, timing, arguments.dialect.provider)
    provider = ProviderApi(session, arguments.dialect, arguments.client_key, arguments.provider_url, gate)
    receiver = arguments.receiver
    if receiver is None and arguments.receiver_url is not None:
        session = await stack.enter_async_context(open_receiver_session())
        receiver = ReceiverApi(session, arguments.receiver_url, arguments.receiver_key)
    return Surroundings(
        dialect=arguments.dialect,
        provider=provider,
        submitter=Submitter(provider, arguments.dialect, gate, timing, app_id=arguments.app_id),
        receiver=receiver,
        link=None if receiver is None else ReceiverLink(receiver, owner, timing),
        gate=gate,
        timing=timing,
        first_poll_seconds=arguments.first_poll_seconds,
    )
