"""The command line: `callback-receiver serve`, `callback-url` and those that say what is known."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import structlog

from client.errors import BadArgumentError, CallbackReceiverError
from client.output import CannotShowError, show, standard_streams, tell
from client.providers import dialect_named
from client.signals import on_signals
from receiver.app import create_app, microseconds_now, new_ref
from receiver.commands.callback_url import list_urls, make_url, revoke_url
from receiver.commands.doctor.command import doctor
from receiver.commands.explain import explain
from receiver.commands.pingback import pingback
from receiver.commands.providers import providers
from receiver.commands.prune import prune_command
from receiver.commands.redeliver import redeliver
from receiver.dialects import known_dialects
from receiver.errors import CannotStartError
from receiver.logs import configure_logs, server_logger
from receiver.settings import Settings, load_settings
from receiver.web.server.runner import Site, make_runner, most_connections

__all__ = ["main", "tune"]

_SHUTDOWN_SECONDS = 10.0
_LONGEST_LABEL = 100


def _short_line(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is not None and (len(text) > _LONGEST_LABEL or not text.isprintable()):
        raise click.BadParameter(f"expected at most {_LONGEST_LABEL} printable characters")
    return text


@click.group(help="Takes the callbacks of createTask services, stores them durably and wakes whoever waits.")
def cli() -> None:
    """The commands; settings come from the environment (prefix RECEIVER_), a .env file or a secrets folder."""


@cli.command(epilog="Exit codes: 0 stopped by a signal, 1 failed for a reason that may pass, 2 refused to start.")
def serve() -> None:
    """Run the receiver until SIGTERM or SIGINT. Settings: see the README, or deploy/environment.example."""
    settings = load_settings(Path.cwd())
    configure_logs(settings.log_format)
    _run(_serve(settings))


@cli.command("callback-url", epilog="Exit codes: 0 done, 1 failed for a reason that may pass, 2 refused.")
@click.argument("provider", required=False)
@click.option("--label", callback=_short_line, help="A note for --list, of at most 100 characters.")
@click.option("--list", "is_list", is_flag=True, help="List all standing URLs by id, without their tokens.")
@click.option("--revoke", metavar="ID", help="Refuse deliveries on one from now on (404), also in a running receiver.")
def callback_url(provider: str | None, label: str | None, is_list: bool, revoke: str | None) -> None:
    """Make a standing URL for PROVIDER, list them, or revoke one.

    A standing URL is for callers that submit with a library of their own. It is a secret: whoever has it can deliver.
    """
    chosen = [provider is not None, is_list, revoke is not None]
    if sum(chosen) != 1:
        raise click.UsageError("expected a PROVIDER, --list, or --revoke ID")
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    if provider is not None:
        dialect = dialect_named(provider, known_dialects(settings))
        made = _run(make_url(settings, dialect, label, now=microseconds_now(), url_id=str(new_ref())))
        tell(f"id {made.id}; revoke it with: callback-receiver callback-url --revoke {made.id}")
        show(made.url)
        for note in made.notes:
            tell(note)
    elif revoke is not None:
        show(_run(revoke_url(settings, _url_id(revoke), now=microseconds_now())))
    else:
        for line in _run(list_urls(settings, now=microseconds_now())):
            show(line)


cli.add_command(doctor)
cli.add_command(explain)
cli.add_command(pingback)
cli.add_command(providers)
cli.add_command(prune_command)
cli.add_command(redeliver)


def main() -> None:
    """The console script: one clear line and exit code 2 for what is refused."""
    with standard_streams():
        _main()


def _main() -> None:
    try:
        cli.main(prog_name="callback-receiver", standalone_mode=False)
    except (CannotStartError, BadArgumentError) as error:
        _exit(str(error), 1 if isinstance(error, CannotStartError) and error.passes else 2)
    except CannotShowError as error:
        # As every program does whose reader has what it wanted.
        sys.exit(1) if error.is_closed_pipe else _exit(str(error), 1)
    except CallbackReceiverError as error:
        _exit(str(error), 1)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _exit(error.format_message(), 2)
    except click.Abort:
        _exit("interrupted", 130)


def _exit(text: str, code: int) -> None:
    tell(f"callback-receiver: {text}")
    sys.exit(code)


def _url_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise click.UsageError("--revoke: expected an id as --list shows it") from None


async def _serve(settings: Settings) -> None:
    """Serve until a signal comes, or until something in the background fails."""
    log = structlog.get_logger()
    file_limit = _raise_file_limit()
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
            "receiver.started", host=host, port=port, publicUrl=settings.public_url, database=str(settings.database)
        )
        _check_file_limit(settings, file_limit)
        await stop.wait()
        log.info("receiver.stopping")
    finally:
        await runner.cleanup()
    log.info("receiver.stopped")


def _raise_file_limit() -> int | None:
    """How many files and sockets may be open: as many as the system lets this process have without asking anyone."""
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
            consequence="at that limit connections without a request are closed, and then new ones",
        )


def tune() -> None:
    """Keep the interpreter from holding up acknowledgements, once all is loaded."""
    # From now on a full collection passes over what was loaded; it took 25 ms from everyone who waited meanwhile.
    gc.collect()
    gc.freeze()
    # The store's threads wait at most this long for the event loop to let them run; by default ten times as long.
    sys.setswitchinterval(0.0005)


def _run(main_coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main_coroutine)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
