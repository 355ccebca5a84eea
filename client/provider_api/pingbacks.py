"""The list of hosts that 2captcha and ruCaptcha may call back: requests and their answers. Pure.

Both manage the list only in their older API (providers/README.md, "Form callbacks", "2captcha and ruCaptcha"), on
another host than createTask.
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
"""The providers with such a list, each with the dialect of its older API."""

EVERY_HOST = "all"
"""The word for every host in del_pingback."""

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})|\[?[0-9A-Fa-f:]{2,45}\]?")


class NotThisHostError(ProviderRefusedError):
    """The request came from a wrong address. A host is added only from the address that its name resolves to."""

    advice = "run this command on the host itself, from the address that its name resolves to"


def older_api(provider: str) -> Dialect:
    """Return the dialect for the list of a provider.

    Raises:
        BadArgumentError: this provider has no such list.
    """
    name = PINGBACK_PROVIDERS.get(provider)
    if name is None:
        raise BadArgumentError(f"provider: expected one of {', '.join(PINGBACK_PROVIDERS)}, got {provider!r}")
    return DIALECTS[name]


def check_host(host: str) -> str:
    """Return the host, unchanged.

    Raises:
        BadArgumentError: it is neither a name nor an IP address, or it is the word for every host.
    """
    if _HOST.fullmatch(host) is None or host.lower() == EVERY_HOST:
        raise BadArgumentError(f"host: expected a name or an IP address, without scheme, port and path, got {host!r}")
    return host


def add_pingback(client_key: str, host: str) -> Call:
    """Return the request to add a host to the list."""
    return _call(client_key, "add_pingback", addr=host)


def list_pingbacks(client_key: str) -> Call:
    """Return the request for the list."""
    return _call(client_key, "get_pingback")


def remove_pingback(client_key: str, host: str) -> Call:
    """Return the request to remove a host, or `EVERY_HOST`, from the list."""
    return _call(client_key, "del_pingback", addr=host)


def read_pingbacks(dialect: Dialect, answer: Any) -> Reading:
    """Return the meaning of an answer: `Ready` after success, otherwise the refusal.

    Raises:
        UnreadableError: it is no answer of this API.
    """
    if answer == {"status": 1, "request": ""}:
        # A bare OK: the request was carried out, or the list is empty.
        return Ready("")
    reading = dialect.read_task_result(answer)
    if isinstance(reading, Ready):
        if isinstance(answer["request"], int | float):
            raise UnreadableError("request: expected addresses, got a number")
        hosts_of(reading)
    return reading


def hosts_of(ready: Ready) -> tuple[str, ...]:
    """Return the hosts in the list. It is one text with pipes, in plain text after `OK`, or a JSON array.

    Raises:
        UnreadableError: it is neither.
    """
    listed = ready.solution.get("code") if isinstance(ready.solution, dict) else ready.solution
    if isinstance(listed, str):
        listed = listed.split("|")
        listed = listed[1:] if listed[0].strip() == "OK" else listed
    if not isinstance(listed, list) or not all(isinstance(host, str) for host in listed):
        raise UnreadableError("request: expected addresses with pipes between them")
    return tuple(host.strip() for host in listed if host.strip())


def refusal_of_pingback(provider: str, refusal: Refused | Failed | Unknown) -> ProviderRefusedError:
    """Return the error to raise for a refused request; `NotThisHostError` for a request from a wrong address.

    The providers spell its code ERROR_IP_ADDRES (providers/README.md, "Form callbacks"). They may correct the spelling
    one day.
    """
    if refusal.error_code.startswith("ERROR_IP_ADDRES"):
        return NotThisHostError(provider, refusal.error_id, refusal.error_code, refusal.error_description)
    return refusal_of(provider, refusal)


def _call(client_key: str, action: str, **more: str) -> Call:
    # The API is documented as GET, with the key in the query. Never log such an address.
    query = (("key", client_key), ("action", action), *more.items(), ("json", "1"))
    return Call(name=f"res.php {action}", path="/res.php", method="GET", query=query)
