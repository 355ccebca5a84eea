"""Composition root of the receiver: settings in, an aiohttp application out."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from uuid import UUID

import uuid_utils
from aiohttp import web

from client.protocol.filters import CANARY
from client.provider_api.unlisted import UnlistedCodes
from client.providers import Dialect
from receiver.dialects import CANARY_DIALECT, known_dialects
from receiver.domain.admission import Limits
from receiver.domain.deliveries import DeliveryRules, Quotas, delivery_rules
from receiver.domain.reading import read_kept
from receiver.errors import CannotStartError
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.health.balances import Balances, check_balances
from receiver.health.findings import CanaryFailure
from receiver.health.monitor import Monitor
from receiver.health.services import open_services
from receiver.metrics import Metrics
from receiver.service.callbacks import Callbacks
from receiver.service.keys import Keys
from receiver.service.providers import Providers
from receiver.service.results import Results
from receiver.service.signing_keys import SigningKeys
from receiver.service.submissions import Submissions
from receiver.service.tasks import CallbackUrls, Tasks
from receiver.service.tickets import Tickets
from receiver.service.waits import Waits
from receiver.settings import Settings, is_loopback
from receiver.storage.opening import open_store
from receiver.storage.store import Store
from receiver.tracing import current_tracing
from receiver.upkeep.deadlines import end_overdue_tasks
from receiver.upkeep.relay import Relay
from receiver.upkeep.retention import RetentionTimes, keep_pruning
from receiver.upkeep.shapes import Observer
from receiver.upstream.accounts import check_accounts, open_accounts
from receiver.upstream.reconciler import Reconciler
from receiver.upstream.schedules import Schedules
from receiver.web.auth import origins_of
from receiver.web.bookkeeping import Bookkeeping
from receiver.web.canary.loop import Canary
from receiver.web.context import RUNTIME, Runtime
from receiver.web.edge.attempts import FailedAttempts
from receiver.web.edge.edge import Edge, EdgeLimits
from receiver.web.edge.overload import Overload
from receiver.web.middleware import mark_as_declared, request_middleware
from receiver.web.operations import at_own_address
from receiver.web.routes import add_routes
from receiver.web.streaming.frames import Frames
from receiver.web.streaming.streams import StreamRules, Streams

__all__ = ["create_app", "delivery_rules_of", "microseconds_now", "new_ref", "open_runtime", "retention_times"]

_STOPPING_SECONDS = 1.6
"""Time that background loops have at the end to store that they were cut off."""


def create_app(
    settings: Settings, dialects: Mapping[str, Dialect] | None = None, *, rules: StreamRules | None = None
) -> web.Application:
    """Return the receiver as an aiohttp application. Its store is open from startup to cleanup.

    Example::

        settings = load_settings(Path.cwd())
        web.run_app(create_app(settings), port=8080, handler_cancellation=True)

    With `handler_cancellation=True` a wait ends when its peer hangs up. A write that has begun is stored all the same.

    Startup and cleanup must run in the same task. An error in the background cancels that task, so that the process
    ends instead of serving without the part that failed. `dialects` replaces the known providers, and `rules` the
    times of streams that the settings give.

    Raises:
        CannotStartError: an API key is malformed, a secret is set for a provider that does not sign, or the file of
            providers is wrong.
    """
    dialects = known_dialects(settings) if dialects is None else dialects
    _check_secrets(settings, dialects)
    _check_callback_addresses(settings, dialects)
    check_accounts(settings, dialects)
    check_balances(settings)
    # Read for its error: a malformed key is refused now, and not at startup.
    _ = settings.keys
    app = web.Application(middlewares=[request_middleware], client_max_size=settings.max_body_bytes)

    @asynccontextmanager
    async def running(_app: web.Application) -> AsyncIterator[None]:
        async with open_runtime(settings, dialects, rules=rules) as runtime:
            app[RUNTIME] = runtime
            yield

    app.cleanup_ctx.append(running)
    if settings.metrics_address:
        app.cleanup_ctx.append(at_own_address(*settings.metrics_host_port))
    app.on_shutdown.append(_end_waits)
    app.on_response_prepare.append(mark_as_declared)
    add_routes(app.router, verification_name=settings.verification_name if settings.verification_text else None)
    return app


@asynccontextmanager
async def open_runtime(
    settings: Settings, dialects: Mapping[str, Dialect], *, rules: StreamRules | None = None
) -> AsyncIterator[Runtime]:
    """Yield the parts of a receiver, built from the store upwards, with all background loops running.

    At the end, background loops have 1.6 s to store what was cut off, and submissions 4 s to be answered. If a loop
    fails, the task that entered the block is cancelled.

    Raises:
        CannotStartError: the database or a service for notices cannot be used, or neither the database nor the
            settings hold an API key.
    """
    name = secrets.token_hex(6)
    rules = rules or StreamRules(send_seconds=settings.send_timeout_seconds)
    limits = _limits(settings, rules)
    metrics, tracing = Metrics(dialects), current_tracing()
    services = await open_services(settings.notice_urls)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(settings, now=microseconds_now(), clock=time.monotonic, tally=metrics.committed)
        )
        keys = Keys(store, settings.keys, now=microseconds_now, allows_anonymous=settings.allow_anonymous)
        await keys.open()
        observer = Observer(store, microseconds_now)
        unlisted = UnlistedCodes(partial(_count_code, metrics, observer))
        providers = await _open_providers(settings, dialects, store, stack, unlisted)
        feed = Feed(store, limits=limits)
        await feed.open()
        waits = Waits(Hub(), feed, limits)
        signing_keys = SigningKeys(store, settings.more_signing_keys, microseconds_now)
        await signing_keys.open()
        urls = CallbackUrls(settings.public_url, signing_keys)
        received = {**dialects, CANARY: CANARY_DIALECT}
        rules_of_provider = delivery_rules_of(settings, received)
        tasks = Tasks(store, providers, waits, urls=urls, now=microseconds_now, new_ref=new_ref)
        balances = Balances(providers.accounts, settings.balance_low, now=microseconds_now, count=metrics.balance)
        monitor = Monitor(
            settings,
            dialects,
            store,
            balances=balances,
            services=services,
            count=metrics.noticed,
            now=microseconds_now,
        )
        owner = await stack.enter_async_context(asyncio.TaskGroup())
        runtime = Runtime(
            dialects=received,
            keys=keys,
            signing_keys=signing_keys,
            max_body_bytes=settings.max_body_bytes,
            origins=origins_of(settings),
            proxies=settings.proxies,
            callback_networks=settings.callback_networks,
            verification_text=settings.verification_text,
            store=store,
            waits=waits,
            callbacks=Callbacks(store, providers, rules_of_provider, now=microseconds_now, new_ref=new_ref),
            tasks=tasks,
            results=Results(store, waits),
            submissions=Submissions(tasks, providers.accounts, owner, microseconds_now, tracing=tracing),
            tickets=Tickets(store, keys),
            streams=Streams(rules, owner),
            frames=Frames(store.cursor_at),
            metrics=metrics,
            observer=observer,
            bookkeeping=Bookkeeping(metrics, observer, tracing),
            edge=Edge(_edge_limits(settings), settings.proxies, limited=metrics.limited),
            attempts=FailedAttempts(metrics.attempted),
            overload=Overload(store),
            monitor=monitor,
            tracing=tracing,
        )
        running = [
            *_start_loops(runtime, providers, retention_times(settings), owner, name=name),
            *_start_canary(runtime, settings, owner),
        ]
        owner.create_task(store.run(), name="writer")
        try:
            yield runtime
        finally:
            for loop in running:
                loop.cancel()
            await asyncio.wait(running, timeout=_STOPPING_SECONDS)
            await runtime.submissions.end()
            await keys.save()
            await providers.schedules.save()
            await observer.save()
            runtime.edge.close()
            store.stop()


async def _open_providers(
    settings: Settings,
    dialects: Mapping[str, Dialect],
    store: Store,
    stack: AsyncExitStack,
    unlisted: UnlistedCodes,
) -> Providers:
    accounts = await open_accounts(settings, dialects, stack, unlisted)
    polled = {provider: account.dialect for provider, account in accounts.items()}
    schedules = Schedules(store, polled, microseconds_now)
    await schedules.open()
    return Providers(dialects, accounts, schedules, unlisted)


def _start_loops(
    runtime: Runtime, providers: Providers, times: RetentionTimes, owner: asyncio.TaskGroup, *, name: str
) -> Sequence[asyncio.Task[None]]:
    """Start the background loops. Return those that have to be cancelled at the end.

    `name` tells this receiver from others on the same database.
    """
    store, waits = runtime.store, runtime.waits
    read = partial(read_kept, runtime.dialects)
    reconcilers = [
        Reconciler(account, store, providers.schedules, microseconds_now, read, runtime.metrics.polled)
        for account in providers.accounts.values()
    ]

    def nudge() -> None:
        for reconciler in reconcilers:
            reconciler.nudge()

    store.listen(Relay(waits.feed, waits.hub, nudge, owner, tracing=runtime.tracing).take)
    forget_solutions = waits.feed.tail.drop_older
    loops = [
        ("deadlines", end_overdue_tasks(store, read, microseconds_now)),
        ("beats", runtime.streams.beat()),
        ("keys", runtime.keys.run(runtime.streams.check_keys)),
        ("overload", runtime.overload.watch()),
        ("learning", providers.schedules.run()),
        ("signing keys", runtime.signing_keys.run()),
        ("retention", keep_pruning(store, times, microseconds_now, forget_solutions, holder=name)),
        ("shapes", runtime.observer.run()),
        ("health", runtime.monitor.run()),
        *(("reconcile", reconciler.run()) for reconciler in reconcilers),
    ]
    return [owner.create_task(loop, name=name) for name, loop in loops]


def _start_canary(runtime: Runtime, settings: Settings, owner: asyncio.TaskGroup) -> Sequence[asyncio.Task[None]]:
    if settings.public_url is None or not settings.canary_minutes:
        return []

    def report(failure: CanaryFailure | None) -> None:
        runtime.monitor.canary = failure

    canary = Canary(
        runtime.store, runtime.signing_keys, runtime.metrics, now=microseconds_now, new_ref=new_ref, report=report
    )
    return [owner.create_task(canary.run(settings.public_url, settings.canary_minutes * 60), name="canary")]


async def _end_waits(app: web.Application) -> None:
    runtime = app.get(RUNTIME)
    # None if the startup failed.
    if runtime is not None:
        runtime.waits.close()
        await runtime.streams.end()


def microseconds_now() -> int:
    """Return the wall clock, in microseconds since 1970."""
    return time.time_ns() // 1000


def new_ref() -> UUID:
    """Return a fresh UUIDv7. Its order is that of creation, so that indexes grow at one end."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


def retention_times(settings: Settings) -> RetentionTimes:
    """Return how long tasks, solutions and deliveries are kept, by the settings."""
    return RetentionTimes(
        results_seconds=settings.retention_results_seconds,
        solutions_seconds=settings.retention_solutions_seconds,
        deliveries_seconds=settings.retention_deliveries_seconds,
        most_finished=settings.max_finished_tasks,
    )


def _count_code(metrics: Metrics, observer: Observer, provider: str, code: str) -> None:
    metrics.unlisted(provider, code)
    observer.note_code(provider, code)


def delivery_rules_of(settings: Settings, dialects: Mapping[str, Dialect]) -> Mapping[str, DeliveryRules]:
    """Return the rules for the callbacks of each provider, by the settings."""
    return delivery_rules(
        dialects,
        Quotas(
            standing_rows=settings.standing_max_tasks,
            standing_bytes=settings.standing_max_bytes,
            unreadable_bytes=settings.unreadable_max_bytes,
        ),
        secrets={
            provider: secret.get_secret_value().encode() for provider, secret in settings.callback_secrets.items()
        },
        confirm=settings.confirm_callbacks,
        polled=settings.provider_keys,
    )


def _limits(settings: Settings, rules: StreamRules) -> Limits:
    return Limits(
        waiters=settings.max_waiters,
        waiters_per_key=settings.max_waiters_per_key,
        streams=settings.max_streams,
        streams_per_key=settings.max_streams_per_key,
        name_bytes=rules.name_bytes,
        name_bytes_per_key=rules.name_bytes_per_key,
    )


def _edge_limits(settings: Settings) -> EdgeLimits:
    return EdgeLimits(
        per_address=settings.max_requests_per_address,
        per_key=settings.max_requests_per_key,
        connections_per_address=settings.max_connections_per_address,
    )


def _check_secrets(settings: Settings, dialects: Mapping[str, Dialect]) -> None:
    for provider in settings.callback_secrets:
        rule = dialects[provider].callback if provider in dialects else None
        if rule is None or rule.signature is None:
            raise CannotStartError(
                f"RECEIVER_CALLBACK_SECRETS: {provider}: expected a provider that signs its callbacks"
            )


def _check_callback_addresses(settings: Settings, dialects: Mapping[str, Dialect]) -> None:
    loopback = [ip_address("127.0.0.1"), ip_address("::1")]
    for provider, networks in settings.callback_networks.items():
        name = "RECEIVER_CALLBACK_ADDRESSES"
        if provider not in dialects or dialects[provider].callback is None:
            raise CannotStartError(f"{name}: {provider}: expected a provider with callbacks")
        is_local = any(address in network for network in networks for address in loopback)
        if is_loopback(settings.host) and not settings.proxies and not is_local:
            raise CannotStartError(
                f"{name}: RECEIVER_HOST is {settings.host}, so all callbacks come from a proxy on this machine; "
                "name it in RECEIVER_TRUSTED_PROXIES"
            )
