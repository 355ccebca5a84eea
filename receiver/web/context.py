"""What handlers find in the application, under typed keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from client.providers import Dialect
from receiver.metrics import Metrics
from receiver.service.inbox import Inbox
from receiver.service.submissions import Submissions
from receiver.service.tickets import Tickets
from receiver.settings import ApiKey
from receiver.upkeep.shapes import Observer
from receiver.web.server.unsent import Pages, Unsent
from receiver.web.streaming.frames import Frames
from receiver.web.streaming.streams import Streams

if TYPE_CHECKING:
    from receiver.web.server.connections import Connections

__all__ = ["CONTEXT", "Context"]


@dataclass(slots=True)
class Context:
    """Everything a handler needs. `inbox` and what stands below it are there once the application has started.

    `has_stopped`: it has ended, and the store is closed or about to be. `connections` are those of a server of ours,
    None where the receiver is mounted in another application.
    """

    dialects: Mapping[str, Dialect]
    api_keys: Sequence[ApiKey]
    max_body_bytes: int
    origins: frozenset[str]
    tickets: Tickets
    streams: Streams
    metrics: Metrics
    has_stopped: bool = field(default=False, init=False)
    unsent: Unsent = field(default_factory=Unsent, init=False)
    pages: Pages = field(init=False)
    connections: Connections | None = field(default=None, init=False)
    inbox: Inbox = field(init=False)
    signing_keys: Sequence[bytes] = field(init=False)
    frames: Frames = field(init=False)
    observer: Observer = field(init=False)
    submissions: Submissions = field(init=False)

    def __post_init__(self) -> None:
        self.pages = Pages(self.unsent)

    @property
    def has_started(self) -> bool:
        """Whether the application has started."""
        return hasattr(self, "inbox")


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
