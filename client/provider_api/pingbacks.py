"""The hosts that 2captcha and ruCaptcha may call back: the requests for their list, and what the answers say. Pure.

Both manage the list in their older API alone (PROVIDERS.md 2.2, 3.6), whose host is not that of createTask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from client.errors import BadArgumentError, ProviderRefusedError, UnreadableError
from client.provider_api.errors import refusal_of
from client.providers import DIALECTS, Call, Dialect
from client.providers.readings import Failed, Reading, Ready, Refused, Unknown

__all__ = [
    "EVERY_HOST",
    "PINGBACK_PROVIDERS",
    "NotThisHostError",
    "add_pingback",
    "check_host",
    "hosts_of",
    "list_pingbacks",
    "older_api",
    "read_pingbacks",
    "refusal_of_pingback",
    "remove_pingback",
]

PINGBACK_PROVIDERS: Mapping[str, str] = MappingProxyType({"twocaptcha": "twocaptchav1", "rucaptcha": "rucaptchav1"})
"""The providers with such a list, and the dialect of the older API of each."""

EVERY_HOST = "all"
"""What del_pingback takes for every host."""

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})|\[?[0-9A-Fa-f:]{2,45}\]?")


class NotThisHostError(ProviderRefusedError):
    """The provider adds a host only when it is asked from the address to which that host resolves."""

    advice = "run this on the host itself, from the address to which its name resolves"


def older_api(provider: str) -> Dialect:
    """Return the dialect in which the list of a provider is managed.

    Raises:
        BadArgumentError: this provider has no such list.
    """
    name = PINGBACK_PROVIDERS.get(provider)
    if name is None:
        raise BadArgumentError(f"provider: expected one of {', '.join(PINGBACK_PROVIDERS)}, got {provider!r}")
    return DIALECTS[name]


def check_host(host: str) -> str:
    """Return the host, where it can be one.

    Raises:
        BadArgumentError: it is a URL, or no name and no address, or the word that stands for all of them.
    """
    if _HOST.fullmatch(host) is None or host.lower() == EVERY_HOST:
        raise BadArgumentError(f"host: expected a name or an IP address, without scheme, port and path, got {host!r}")
    return host


def add_pingback(client_key: str, host: str) -> Call:
    """Return the request that registers a host."""
    return _call(client_key, "add_pingback", addr=host)


def list_pingbacks(client_key: str) -> Call:
    """Return the request for the list."""
    return _call(client_key, "get_pingback")


def remove_pingback(client_key: str, host: str) -> Call:
    """Return the request that takes a host, or `EVERY_HOST`, from the list."""
    return _call(client_key, "del_pingback", addr=host)


def read_pingbacks(dialect: Dialect, answer: Any) -> Reading:
    """What the provider said: `Ready` where it did what was asked, else why not.

    Raises:
        UnreadableError: it is no answer of this API.
    """
    if answer == {"status": 1, "request": ""}:
        # A bare OK: it was done, or the list is empty.
        return Ready("")
    said = dialect.read_task_result(answer)
    if isinstance(said, Ready):
        if isinstance(answer["request"], int | float):
            raise UnreadableError("request: expected addresses, got a number")
        hosts_of(said)
    return said


def hosts_of(said: Ready) -> tuple[str, ...]:
    """Return the hosts in the list, which comes as one text with pipes, in plain text after `OK`; or as a list.

    Raises:
        UnreadableError: it is neither.
    """
    listed = said.solution.get("code") if isinstance(said.solution, dict) else said.solution
    if isinstance(listed, str):
        listed = listed.split("|")
        listed = listed[1:] if listed[0].strip() == "OK" else listed
    if not isinstance(listed, list) or not all(isinstance(host, str) for host in listed):
        raise UnreadableError("request: expected addresses with pipes between them")
    return tuple(host.strip() for host in listed if host.strip())


def refusal_of_pingback(provider: str, said: Refused | Failed | Unknown) -> ProviderRefusedError:
    """Return the error that a refused request is raised as; one of its own where it has to be asked from elsewhere.

    That code is spelt ERROR_IP_ADDRES (PROVIDERS.md 2.2), which they may correct one day.
    """
    if said.error_code.startswith("ERROR_IP_ADDRES"):
        return NotThisHostError(provider, said.error_id, said.error_code, said.error_description)
    return refusal_of(provider, said)


def _call(client_key: str, action: str, **more: str) -> Call:
    # It is documented as GET, with the key in the query: such an address must never be logged.
    query = (("key", client_key), ("action", action), *more.items(), ("json", "1"))
    return Call(name=f"res.php {action}", path="/res.php", method="GET", query=query)
