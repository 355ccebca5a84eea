"""The running receiver as handlers find it in the application, under a typed key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from client.providers import Dialect
from receiver.health.monitor import Monitor
from receiver.metrics import Metrics
from receiver.service.callbacks import Callbacks
from receiver.service.keys import Keys
from receiver.service.results import Results
from receiver.service.signing_keys import SigningKeys
from receiver.service.submissions import Submissions
from receiver.service.tasks import Tasks
from receiver.service.tickets import Tickets
from receiver.service.waits import Waits
from receiver.settings import Network
from receiver.storage.store import Store
from receiver.tracing import Tracing
from receiver.upkeep.shapes import Observer
from receiver.web.bookkeeping import Bookkeeping
from receiver.web.edge.attempts import FailedAttempts
from receiver.web.edge.edge import Edge
from receiver.web.edge.overload import Overload
from receiver.web.server.unsent import Unsent
from receiver.web.streaming.frames import Frames
from receiver.web.streaming.streams import Streams

__all__ = ["RUNTIME", "Runtime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The parts of a running receiver, complete from the startup of its application to its cleanup."""

    dialects: Mapping[str, Dialect]
    keys: Keys
    signing_keys: SigningKeys
    max_body_bytes: int
    origins: frozenset[str]
    proxies: Sequence[Network]
    callback_networks: Mapping[str, Sequence[Network]]
    verification_text: str | None
    store: Store
    waits: Waits
    callbacks: Callbacks
    tasks: Tasks
    results: Results
    submissions: Submissions
    tickets: Tickets
    streams: Streams
    frames: Frames
    metrics: Metrics
    observer: Observer
    bookkeeping: Bookkeeping
    edge: Edge
    attempts: FailedAttempts
    overload: Overload
    monitor: Monitor
    tracing: Tracing | None = None
    unsent: Unsent = field(default_factory=Unsent)


RUNTIME: web.AppKey[Runtime] = web.AppKey("runtime", Runtime)
