"""Every provider that is known here, by name. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from client.errors import BadArgumentError
from client.providers.catalog import CATALOG
from client.providers.declaration import read_providers
from client.providers.dialect import Call, CallbackRule, Dialect, KeyLimits, PollPlan, Rate, SignatureRule

__all__ = [
    "DIALECTS",
    "Call",
    "CallbackRule",
    "Dialect",
    "KeyLimits",
    "PollPlan",
    "Rate",
    "SignatureRule",
    "dialect_named",
    "read_providers",
]

DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.provider: dialect for dialect in CATALOG})


def dialect_named(name: str, dialects: Mapping[str, Dialect] = DIALECTS) -> Dialect:
    """Return the dialect of a provider.

    Raises:
        BadArgumentError: no such provider; the text lists those there are.
    """
    try:
        return dialects[name]
    except KeyError:
        raise BadArgumentError(f"unknown provider {name!r}: expected one of {', '.join(sorted(dialects))}") from None
