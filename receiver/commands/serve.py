"""`callback-receiver serve`: the receiver as a process of its own."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import structlog

from client.signals import on_signals
from client.version import VERSION
from receiver.app import create_app
from receiver.errors import CannotStartError
from receiver.logs import configure_logs, server_logger
from receiver.settings import Settings, load_settings
from receiver.web.server.runner import Site, make_runner, most_connections

__all__ = ["raise_file_limit", "serve", "tune"]

_SHUTDOWN_SECONDS = 10.0


@click.command(epilog="Exit codes: 0 stopped by a signal, 1 failed and may work later, 2 refused to start.")
def serve() -> None:
    """Run the receiver until SIGTERM or SIGINT.

    deploy/SETTINGS.md lists the settings, deploy/environment.example the usual ones.
    """
    settings = load_settings(Path.cwd())
    configure_logs(settings.log_format)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    """Serve until a signal arrives or a background task fails."""
    log = structlog.get_logger()
    file_limit = raise_file_limit()
    stop = asyncio.Event()
    on_signals(stop.set, signal.SIGTERM, signal.SIGINT)
    runner = make_runner(
        create_app(settings),
        most=most_connections(settings.max_waiters + settings.max_streams, file_limit),
        logger=server_logger(),
        shutdown_timeout=_SHUTDOWN_SECONDS,
        keepalive_timeout=settings.keepalive_seconds,
    )
    try:
        await runner.setup()
        site = Site(runner, settings.host, settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            text = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
            raise CannotStartError(text, passes=error.errno == errno.EADDRINUSE) from None
        tune()
        host, port = runner.addresses[0][:2]
        log.info(
            "receiver.started",
            version=VERSION,
            host=host,
            port=port,
            publicUrl=settings.public_url,
            database=str(settings.database),
        )
        _check_file_limit(settings, file_limit)
        await stop.wait()
        log.info("receiver.stopping")
    finally:
        await runner.cleanup()
    log.info("receiver.stopped")


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
