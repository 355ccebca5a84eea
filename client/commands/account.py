"""The commands `balance` and `report`: calls to a provider about its account, without a receiver."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from client.config.arguments import ClientArguments, GivenArguments, read_arguments
from client.output import show
from client.provider_api.account import ask_balance, send_report
from client.provider_api.http import ProviderApi, open_provider_session
from client.providers import Dialect
from client.providers.readings import TaskId

__all__ = ["balance", "report"]

_Answer = TypeVar("_Answer")

_EXIT_CODES = "Exit codes: 0 done, 1 the provider refused or failed, 2 wrong arguments, 130 interrupted."
_NUMBER = re.compile(r"[1-9][0-9]*", re.ASCII)

_provider = click.option("--provider", required=True, help="As in `solve`.")
_provider_url = click.option(
    "--provider-url", metavar="URL", help="Another endpoint of the provider, or a sandbox; also <PROVIDER>_URL."
)


@click.command(epilog=_EXIT_CODES, short_help="Print the balance of an account.")
@_provider
@_provider_url
def balance(provider: str, provider_url: str | None) -> None:
    """Print the balance of the account, in the provider's unit.

    The client key is read from <PROVIDER>_CLIENT_KEY.
    """
    arguments = _arguments(provider, provider_url)
    left = asyncio.run(_ask_provider(arguments, lambda api: ask_balance(api, provider)))
    show(f"{left:.10f}".rstrip("0").rstrip("."))


@click.command(epilog=_EXIT_CODES, short_help="Report a right or wrong answer to the provider.")
@click.argument("verdict", metavar="good|bad", type=click.Choice(["good", "bad"]))
@click.argument("task_id", metavar="TASKID")
@_provider
@click.option("--type", "task_type", metavar="TYPE", help="The type of the task; some providers' reports need it.")
@_provider_url
def report(verdict: str, task_id: str, provider: str, task_type: str | None, provider_url: str | None) -> None:
    """Report to the provider a right (good) or wrong (bad) answer to TASKID.

    The client key is read from <PROVIDER>_CLIENT_KEY.
    """
    arguments = _arguments(provider, provider_url)
    read_id = _task_id(arguments.dialect, task_id)
    is_good = verdict == "good"
    asyncio.run(_ask_provider(arguments, lambda api: send_report(api, provider, read_id, task_type, is_good=is_good)))


def _arguments(provider: str, provider_url: str | None) -> ClientArguments:
    return read_arguments(GivenArguments(provider=provider, provider_url=provider_url), None, os.environ)


async def _ask_provider(arguments: ClientArguments, ask: Callable[[ProviderApi], Awaitable[_Answer]]) -> _Answer:
    async with open_provider_session() as session:
        return await ask(ProviderApi(session, arguments.dialect, arguments.client_key, arguments.provider_url))


def _task_id(dialect: Dialect, text: str) -> TaskId:
    """Return the id with the JSON type of the provider's ids. A command line cannot show it."""
    is_integer = dialect.id_type == "integer" and _NUMBER.fullmatch(text) is not None
    # Python refuses to read numbers of more than 4300 digits; no provider's id has even 40.
    return int(text) if is_integer and len(text) <= 40 else text
