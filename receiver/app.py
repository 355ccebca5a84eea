"""Puts the receiver together: settings in, an aiohttp application out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from uuid import UUID

import uuid_utils
from aiohttp import web

from client.provider_api.unlisted import UnlistedCodes
from client.providers import Dialect
from receiver.dialects import known_dialects
from receiver.domain.admission import Limits
from receiver.domain.deliveries import Quotas
from receiver.errors import CannotStartError
from receiver.feed.hub import Hub
from receiver.metrics import Metrics
from receiver.service.inbox import Inbox, InboxRules
from receiver.service.submissions import Submissions
from receiver.service.tickets import Tickets
from receiver.settings import Settings
from receiver.storage.sqlite.store import open_sqlite_store
from receiver.upkeep.deadlines import end_overdue_tasks
from receiver.upkeep.retention import Lives, prune_old
from receiver.upkeep.shapes import Observer
from receiver.upstream.accounts import check_accounts, open_accounts
from receiver.upstream.reconciler import Reconciler
from receiver.upstream.schedules import Schedules
from receiver.web import callbacks, operations, results, tasks, tickets, timeline
from receiver.web.auth import needs, needs_for_stream
from receiver.web.context import CONTEXT, Context
from receiver.web.middleware import mark_as_declared, request_middleware
from receiver.web.origins import origins_of
from receiver.web.streaming import sse, websocket
from receiver.web.streaming.frames import Frames
from receiver.web.streaming.streams import StreamRules, Streams

__all__ = ["create_app", "lives_of", "microseconds_now", "new_ref"]

_STOPPING_SECONDS = 2.0
"""So long is what runs in the background given to store that it was cut off."""


def create_app(
    settings: Settings, dialects: Mapping[str, Dialect] | None = None, *, rules: StreamRules | None = None
) -> web.Application:
    """Return the receiver as an application; its store is open from startup to cleanup.

    Startup and cleanup must run in the same task. When something that runs in the background ends by an error, that
    task is cancelled, so that the process ends instead of serving without it. Run it with `handler_cancellation=True`:
    a wait ends when its peer hangs up, and what is being stored is stored all the same. `rules` are the times of
    streams, where they are not to be those of the settings; `dialects` the providers, likewise.

    Raises:
        CannotStartError: a secret is set for a provider that does not sign, or the file of providers is wrong.
    """
    dialects = known_dialects(settings) if dialects is None else dialects
    _check_secrets(settings, dialects)
    check_accounts(settings, dialects)
    app = web.Application(middlewares=[request_middleware], client_max_size=settings.max_body_bytes)
    streams = Streams(rules or StreamRules(send_seconds=settings.send_timeout_seconds))
    app[CONTEXT] = context = Context(
        dialects=dialects,
        api_keys=settings.keys,
        max_body_bytes=settings.max_body_bytes,
        origins=origins_of(settings),
        tickets=Tickets(time.monotonic),
        streams=streams,
        metrics=Metrics(dialects),
    )
    hub = Hub()

    async def storage(_app: web.Application) -> AsyncIterator[None]:
        async with (
            open_sqlite_store(
                settings.database, now=microseconds_now(), clock=time.monotonic, tally=context.metrics.committed
            ) as store,
            AsyncExitStack() as stack,
            asyncio.TaskGroup() as owner,
        ):
            context.observer = observer = Observer(store, microseconds_now)
            unlisted = UnlistedCodes(partial(_count_code, context.metrics, observer))
            accounts = await open_accounts(settings, dialects, stack, unlisted)
            signing_keys = [*settings.more_signing_keys, *store.signing_keys]
            inbox = Inbox(
                store,
                hub,
                dialects,
                _rules(settings, signing_keys[0], streams.rules),
                now=microseconds_now,
                new_ref=new_ref,
                accounts=accounts,
                unlisted=unlisted,
            )
            await inbox.open()
            context.inbox, context.signing_keys = inbox, signing_keys
            context.frames = Frames(inbox.cursor_at)
            owner.create_task(store.run(), name="writer")
            owner.create_task(inbox.relay(), name="relay")
            deadlines = owner.create_task(end_overdue_tasks(inbox, microseconds_now), name="deadlines")
            context.submissions = Submissions(inbox, accounts)
            streams.owner = context.submissions.owner = owner
            retention = owner.create_task(
                prune_old(store, lives_of(settings), microseconds_now, inbox.forget_solutions), name="retention"
            )
            beats = owner.create_task(streams.beat(), name="beats")
            inbox.learning = learning = Schedules(
                store, {provider: account.dialect for provider, account in accounts.items()}, microseconds_now
            )
            await learning.open()
            reconcilers = [
                Reconciler(account, store, learning, microseconds_now, inbox.read_kept, context.metrics.polled)
                for account in accounts.values()
            ]
            inbox.hinted = partial(_nudge, reconcilers)
            keeping = owner.create_task(learning.run(), name="learning")
            observing = owner.create_task(observer.run(), name="shapes")
            running = [
                deadlines,
                beats,
                keeping,
                retention,
                observing,
                *(owner.create_task(each.run(), name="reconcile") for each in reconcilers),
            ]
            try:
                yield
            finally:
                context.has_stopped = True
                for each in running:
                    each.cancel()
                await asyncio.wait(running, timeout=_STOPPING_SECONDS)
                await context.submissions.end()
                await learning.save()
                await observer.save()
                store.stop()

    async def release_waiters(_app: web.Application) -> None:
        if context.has_started:
            context.inbox.close()
            await streams.end()

    app.cleanup_ctx.append(storage)
    if settings.metrics_address:
        app.cleanup_ctx.append(operations.at_own_address(*settings.metrics_host_port))
    app.on_shutdown.append(release_waiters)
    app.on_response_prepare.append(mark_as_declared)
    tasks.prepare(app)
    _add_routes(app)
    if settings.verification_text:
        app.router.add_get(f"/{settings.verification_name}", operations.verification(settings.verification_text))
    return app


def microseconds_now() -> int:
    """Return the wall clock, in microseconds since 1970."""
    return time.time_ns() // 1000


def lives_of(settings: Settings) -> Lives:
    """How long what is kept, as the settings say."""
    return Lives(
        results_seconds=settings.retention_results_seconds,
        solutions_seconds=settings.retention_solutions_seconds,
        deliveries_seconds=settings.retention_deliveries_seconds,
        most_finished=settings.max_finished_tasks,
    )


def new_ref() -> UUID:
    """Return a fresh UUIDv7: its order is that of creation, so that indexes grow at one end."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


def _count_code(metrics: Metrics, observer: Observer, provider: str, code: str) -> None:
    metrics.unlisted(provider, code)
    observer.note_code(provider, code)


def _nudge(reconcilers: Iterable[Reconciler]) -> None:
    for each in reconcilers:
        each.nudge()


def _rules(settings: Settings, signing_key: bytes, streams: StreamRules) -> InboxRules:
    return InboxRules(
        public_url=settings.public_url,
        signing_key=signing_key,
        callback_secrets={
            provider: secret.get_secret_value().encode() for provider, secret in settings.callback_secrets.items()
        },
        confirm_callbacks=settings.confirm_callbacks,
        quotas=Quotas(
            standing_rows=settings.standing_max_tasks,
            standing_bytes=settings.standing_max_bytes,
            unreadable_bytes=settings.unreadable_max_bytes,
        ),
        limits=Limits(
            waiters=settings.max_waiters,
            waiters_per_key=settings.max_waiters_per_key,
            streams=settings.max_streams,
            streams_per_key=settings.max_streams_per_key,
            name_bytes=streams.name_bytes,
            name_bytes_per_key=streams.name_bytes_per_key,
        ),
    )


def _check_secrets(settings: Settings, dialects: Mapping[str, Dialect]) -> None:
    for provider in settings.callback_secrets:
        rule = dialects[provider].callback if provider in dialects else None
        if rule is None or rule.signature is None:
            raise CannotStartError(
                f"RECEIVER_CALLBACK_SECRETS: no provider {provider} that signs its callbacks is known"
            )


def _add_routes(app: web.Application) -> None:
    route = app.router.add_route
    for method in ("GET", "POST"):
        # Not add_get: that would take HEAD too. The first one is found by its prefix, the other only where none is.
        route(method, "/callback/{provider}/{token}", callbacks.callback)
        route(method, f"/{callbacks.LENIENT_PATH}", callbacks.callback)
    route("POST", "/v1/tasks", needs("submit", tasks.register))
    route("GET", "/v1/tasks", needs("read", tasks.list_tasks))
    route("GET", "/v1/tasks/{id}", needs("read", tasks.fetch))
    route("PATCH", "/v1/tasks/{id}", needs("submit", tasks.bind))
    route("DELETE", "/v1/tasks/{id}", needs("admin", tasks.forget))
    route("GET", "/v1/tasks/{id}/timeline", needs("read", timeline.timeline))
    route("PUT", "/v1/tasks/{id}/outcome", needs("submit", tasks.report))
    route("GET", "/v1/results", needs("read", results.results))
    route("GET", "/v1/results/stream", needs_for_stream(sse.stream))
    route("GET", "/v1/subscribe", needs_for_stream(websocket.subscribe))
    route("POST", "/v1/tickets", needs("read", tickets.make_ticket))
    route("GET", "/metrics", needs("admin", operations.metrics))
    route("GET", "/asyncapi.json", operations.asyncapi)
    route("GET", "/openapi.json", operations.openapi)
    # Monitors ask by HEAD, too.
    app.router.add_get("/healthz", operations.healthz)
    app.router.add_get("/readyz", operations.readyz)
