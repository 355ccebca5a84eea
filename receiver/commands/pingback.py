"""`callback-receiver pingback`: the hosts that 2captcha and ruCaptcha may call back.

Source: providers/README.md, "Form callbacks".

The command belongs to the receiver because the providers add a host only on a request from that host's own address.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from client.config.environment import check_url, client_key_of, read_variable
from client.errors import BadArgumentError, ProviderUnreachableError
from client.output import show
from client.provider_api.http import ProviderApi, open_provider_session
from client.provider_api.pingbacks import (
    EVERY_HOST,
    PINGBACK_PROVIDERS,
    add_pingback,
    check_host,
    hosts_of,
    list_pingbacks,
    older_api,
    read_pingbacks,
    refusal_of_pingback,
    remove_pingback,
)
from client.providers import Call
from client.providers.readings import Failed, Ready, Refused, Unknown
from receiver.settings import load_settings

__all__ = ["pingback"]

_EXIT_CODES = "Exit codes: 0 done, 1 the provider refused or did not answer, 2 wrong arguments."


@click.group()
def pingback() -> None:
    """Manage the callback hosts at 2captcha and ruCaptcha.

    These providers call back only hosts on the account's list. The client key is read from <PROVIDER>_CLIENT_KEY, for
    example TWOCAPTCHA_CLIENT_KEY.
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    names = " or ".join(PINGBACK_PROVIDERS)
    url = click.option("--url", metavar="URL", help="Another address of the older API; also <PROVIDER>_V1_URL.")
    return click.option("--provider", required=True, help=f"{names}.")(url(command))


@pingback.command(epilog=_EXIT_CODES)
@click.argument("host", metavar="[ADDR]", required=False)
@_options
def add(host: str | None, provider: str, url: str | None) -> None:
    """Add ADDR; run this on that host.

    The default is the host of RECEIVER_PUBLIC_URL.
    """
    host = _host_or_own(host)
    _ask(provider, url, partial(add_pingback, host=host))
    show(f"{provider} may call {host}")


@pingback.command("list", epilog=_EXIT_CODES)
@_options
def list_hosts(provider: str, url: str | None) -> None:
    """Print the allowed hosts, one a line."""
    for host in _ask(provider, url, list_pingbacks):
        show(host)


@pingback.command(epilog=_EXIT_CODES)
@click.argument("host", metavar="[ADDR]", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every host of the account, including hosts of other programs.")
@_options
def remove(host: str | None, provider: str, url: str | None, *, is_all: bool) -> None:
    """Remove ADDR.

    The default is the host of RECEIVER_PUBLIC_URL.
    """
    if is_all and host is not None:
        raise BadArgumentError("--all: expected either a host or --all")
    host = EVERY_HOST if is_all else _host_or_own(host)
    _ask(provider, url, partial(remove_pingback, host=host))
    show(f"{provider} may call {'no host' if is_all else host + ' no more'}")


def _host_or_own(host: str | None) -> str:
    if host is None:
        host = urlsplit(load_settings(Path.cwd(), serves=False).public_url or "").hostname
    if host is None:
        raise BadArgumentError("RECEIVER_PUBLIC_URL: expected the receiver's address in it, or ADDR as an argument")
    return check_host(host)


def _ask(provider: str, url: str | None, make_call: Callable[[str], Call]) -> Sequence[str]:
    """Make the call and return the hosts that the provider listed.

    Raises:
        BadArgumentError: the provider has no such list, or the key or the address is missing or wrong.
        ProviderRefusedError: the provider refused the call.
        ProviderUnreachableError: the provider did not answer, or its answer does not say if the call succeeded.
    """
    dialect = older_api(provider)
    variable = f"{provider.upper()}_V1_URL"
    address = url or read_variable(variable, os.environ) or dialect.base_url or ""
    address = check_url("--url" if url else variable, address)
    client_key = client_key_of(provider, None, os.environ)

    async def call_provider() -> Any:
        async with open_provider_session() as session:
            api = ProviderApi(session, dialect, client_key, address)
            return (await api.ask(make_call(client_key), partial(read_pingbacks, dialect))).reading

    match asyncio.run(call_provider()):
        case Ready() as reading:
            return hosts_of(reading)
        case Refused() | Failed() | Unknown() as reading:
            raise refusal_of_pingback(provider, reading)
        case _:
            raise ProviderUnreachableError(f"{provider}: its answer does not say if the call succeeded")
