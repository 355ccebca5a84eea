"""What handlers find in the application, under typed keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from client.providers import Dialect
from receiver.inbox import Inbox
from receiver.settings import ApiKey

__all__ = ["CONTEXT", "Context"]


@dataclass(slots=True)
class Context:
    """Everything a handler needs. `inbox` and `signing_keys` are there once the application has started."""

    dialects: Mapping[str, Dialect]
    api_keys: Sequence[ApiKey]
    max_body_bytes: int
    inbox: Inbox = field(init=False)
    signing_keys: Sequence[bytes] = field(init=False)

    @property
    def has_started(self) -> bool:
        """Whether the application has started."""
        return hasattr(self, "inbox")


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
