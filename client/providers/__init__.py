"""The known providers, by name. Pure: no I/O except reading the catalogue at import, and no clock."""

from __future__ import annotations

from collections.abc import Mapping

from client.errors import BadArgumentError
from client.providers.catalog import DIALECTS
from client.providers.declaration import read_providers
from client.providers.dialect import Call, Dialect
from client.providers.rules import CallbackRule, KeyLimits, PollPlan, Rate, SignatureRule

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


def dialect_named(name: str, dialects: Mapping[str, Dialect] = DIALECTS) -> Dialect:
    """Return the dialect of a provider.

    Raises:
        BadArgumentError: there is no such provider. The text lists the known ones.
    """
    try:
        return dialects[name]
    except KeyError:
        raise BadArgumentError(f"unknown provider {name!r}: expected one of {', '.join(sorted(dialects))}") from None
