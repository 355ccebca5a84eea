"""`callback-receiver serve`: the receiver as a process of its own."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click
import structlog

from client.signals import on_signals
from client.version import VERSION
from receiver.app import create_app
from receiver.commands.notify import Notifier
from receiver.errors import CannotStartError
from receiver.logs import configure_logs, server_logger
from receiver.settings import ApiKey, Settings, load_settings
from receiver.tracing import exporting
from receiver.web.context import RUNTIME, Runtime
from receiver.web.server.runner import Runner, Site, SocketSite, make_runner, most_connections
from receiver.web.server.sockets import check_local, passed_sockets, shown_address

__all__ = ["raise_file_limit", "serve", "tune"]

_LIMIT_SECONDS = 9.0
"""Longest time from a signal, and the delay in the settings, to the end. Docker kills after 10 s."""

# Supervisors such as `timeout` signal the process and then its group.
_SAME_SIGNAL_SECONDS = 0.5
_SHUTDOWN_SECONDS = 0.5
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
# As many as the system allows by default. While no receiver runs, that many connections wait at a passed socket.
_BACKLOG = 4096


@click.command(epilog="Exit codes: 0 stopped by a signal, 1 failed and may work later, 2 refused to start.")
def serve() -> None:
    """Run the receiver until SIGTERM or SIGINT. SIGHUP reads the API keys again.

    deploy/SETTINGS.md lists the settings, deploy/environment.example the usual ones.
    """
    settings = load_settings(Path.cwd())
    configure_logs(settings.log_format)
    # Until there is something to reload, and again at the end: Python then restores the default, which kills.
    _ignore_hangups()
    sockets = passed_sockets()
    _check_sockets(settings, sockets)
    try:
        with exporting(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, sockets))
    finally:
        _ignore_hangups()


async def _serve(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Serve until a signal arrives or a background task fails."""
    log = structlog.get_logger()
    file_limit = raise_file_limit()
    notifier = Notifier()
    signals = _Signals(settings.stop_delay_seconds)
    app = create_app(settings)
    runner = make_runner(
        app,
        most=most_connections(settings.max_waiters + settings.max_streams, file_limit),
        is_direct=settings.direct_callbacks,
        logger=server_logger(),
        shutdown_timeout=_SHUTDOWN_SECONDS,
        keepalive_timeout=settings.keepalive_seconds,
    )
    try:
        await runner.setup()
        await _listen(runner, settings, sockets)
        tune()
        host, port = shown_address(runner.addresses[0])
        log.info(
            "receiver.started",
            version=VERSION,
            host=host,
            port=port,
            publicUrl=settings.public_url,
            database=settings.database_name,
        )
        _check_file_limit(settings, file_limit)
        notifier.ready()
        notifier.watch()
        while await signals.ask_for_reload():
            notifier.reloading()
            await _reload(app[RUNTIME], settings, sockets)
            notifier.ready()
        log.info("receiver.stopping")
        notifier.stopping()
        await runner.leave(settings.stop_delay_seconds)
        await runner.drain()
    finally:
        await runner.cleanup()
    log.info("receiver.stopped")


async def _listen(runner: Runner, settings: Settings, sockets: Sequence[socket.socket]) -> None:
    if sockets:
        for listener in sockets:
            await SocketSite(runner, listener, backlog=_BACKLOG).start()
        return
    site = Site(runner, settings.host, settings.port, backlog=_BACKLOG)
    try:
        await site.start()
    except OSError as error:
        text = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        raise CannotStartError(text, passes=error.errno == errno.EADDRINUSE) from None


def _check_sockets(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Refuse to serve strangers without keys at sockets that were passed, as `check_exposure` does for the host."""
    if settings.allow_anonymous and not settings.keys:
        check_local(sockets)


async def _reload(runtime: Runtime, started: Settings, sockets: Sequence[socket.socket]) -> None:
    """Let the API keys of the files hold from now on. If a setting is wrong, those before stay."""
    log = structlog.get_logger()

    def load() -> Sequence[ApiKey]:
        settings = load_settings(Path.cwd())
        _check_sockets(settings, sockets)
        changed = [name for name, value in vars(settings).items() if value != vars(started)[name]]
        names = [f"RECEIVER_{name.upper()}" for name in changed if name != "api_keys"]
        if names:
            log.warning("settings.changed", names=names, consequence="they hold after a restart")
        return settings.keys

    try:
        await runtime.keys.reload(load)
    except Exception:
        # A fault of ours is no reason to end, either. Nor is a folder that was removed.
        log.exception("reload.failed", consequence="the API keys stay as they were")


def _ignore_hangups() -> None:
    if _HANGUP is not None:
        signal.signal(_HANGUP, signal.SIG_IGN)


class _Signals:
    """The signals of this process. The first SIGTERM or SIGINT is a wish to end.

    A second one, at least half a second later, ends the process at once. So does the end of the time limit, which
    begins after `delay`. Everything acknowledged is in the database by then. SIGHUP never ends anything.
    """

    def __init__(self, delay: float) -> None:
        self._limit_seconds = delay + _LIMIT_SECONDS
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._stopping_since: float | None = None
        on_signals(self._stop, signal.SIGTERM, signal.SIGINT)
        if _HANGUP is not None:
            # The event loop would restore the default at its end, and a late SIGHUP would kill.
            signal.signal(_HANGUP, self._hang_up)

    async def ask_for_reload(self) -> bool:
        """Wait for a signal. Return False if the process is to end."""
        await self._arrived.wait()
        self._arrived.clear()
        return self._stopping_since is None

    def _stop(self) -> None:
        if self._stopping_since is not None:
            if self._loop.time() >= self._stopping_since + _SAME_SIGNAL_SECONDS:
                _end_now(0, "a second signal")
            return
        self._stopping_since = self._loop.time()
        # A thread of its own: it ends the process even if the event loop or the disk hangs.
        reason = f"not done after {self._limit_seconds:g} s"
        limit = threading.Timer(self._limit_seconds, _end_now, (1, reason))
        limit.daemon = True
        limit.start()
        self._arrived.set()

    def _hang_up(self, *_: object) -> None:
        # It runs between two steps of the loop, or after its end.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.set)


def _end_now(code: int, reason: str) -> None:
    structlog.get_logger().error("receiver.cut_off", reason=reason, consequence="requests under way get no answer")
    os._exit(code)


def raise_file_limit() -> int | None:
    """Raise the limit of open files and sockets to the hard limit. Return it; None if there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return None if soft == resource.RLIM_INFINITY else soft


def _check_file_limit(settings: Settings, limit: int | None) -> None:
    needed = settings.max_waiters + settings.max_streams
    if limit is not None and limit < needed:
        structlog.get_logger().warning(
            "file_limit.low",
            limit=limit,
            waitersAndStreams=needed,
            consequence="at the limit, idle connections are closed first, then new connections",
        )


def tune() -> None:
    """Keep the interpreter from delaying acknowledgements. Call it once all modules are loaded."""
    # A full collection now skips the loaded modules. It took 25 ms, and every callback waited for it.
    gc.collect()
    gc.freeze()
    # A batch of callbacks makes thousands of objects, and nearly all of them are gone after it.
    gc.set_threshold(50_000, 20, 100)
    # The longest time that the store's threads wait for the event loop; the default is ten times as long.
    sys.setswitchinterval(0.0005)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
