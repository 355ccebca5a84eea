"""The command `sandbox`: a provider that runs here until a signal comes."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import fields, replace
from typing import Any, TypeVar, get_args

import click

from client.errors import BadArgumentError
from client.output import CannotShowError, show, standard_streams, tell
from client.sandbox.faults import FaultRates
from client.sandbox.limits import Limits, limits_of
from client.sandbox.provider import HOST, Sandbox
from client.sandbox.settings import CallbackBody, Settings
from client.sandbox.wires import PROFILES
from client.signals import on_signals

__all__ = ["main", "sandbox"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_NOT_NEGATIVE = click.FloatRange(min=0)
_COUNT = click.IntRange(min=0)

_OPTIONS = [
    click.option("--dialect", type=click.Choice(sorted(PROFILES)), help="The provider to speak like; required."),
    click.option(
        "--port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1; 0, the default: any free one."
    ),
    click.option("--seed", type=int, help="Repeats the faults and latencies of another run. Default: a random one."),
    click.option("--latency-min", type=_NOT_NEGATIVE, help="Shortest time of a task, in seconds. Default: 0.5."),
    click.option("--latency-max", type=_NOT_NEGATIVE, help="Longest time of a task, in seconds. Default: 2."),
    click.option("--client-key", "client_keys", multiple=True, help="Accept only this key; may be repeated."),
    click.option("--balance", type=_NOT_NEGATIVE, help="What each key has at the start. Default: 1000."),
    click.option("--cost", type=_NOT_NEGATIVE, help="What a task that does not fail costs. Default: 0.001."),
    click.option("--async-images", is_flag=True, help="capsolver: recognition types are not answered by createTask."),
    click.option("--no-status", is_flag=True, help="capsolver: no status in createTask answers, instead of idle."),
    click.option(
        "--error-status",
        type=click.IntRange(200, 599),
        help="onecaptcha: HTTP status of errors. Unknown; placeholder: 200. nextcaptcha: some other, placeholder "
        "400. (capsolver: 400 and 401, documented.)",
    ),
    click.option(
        "--callback-body",
        type=click.Choice(get_args(CallbackBody)),
        default="result",
        help="capsolver: what is POSTed, a getTaskResult answer or just the solution. Inferred, not documented.",
    ),
    click.option(
        "--callback-with-task-id", is_flag=True, help="capmonster and its likes: add taskId. Unknown; placeholder: no."
    ),
    click.option(
        "--callback-without-task-id",
        is_flag=True,
        help="capsolver: leave taskId out of callbacks. That it is there is inferred, not documented.",
    ),
    click.option(
        "--callback-timeout",
        type=_NOT_NEGATIVE,
        help="In seconds. capmonster: 2, hardcaptcha: 5, ucaptcha: 10; of others unknown, placeholder 10.",
    ),
    click.option("--account-webhook-url", help="capsolution: where the events of the account go; the task has no say."),
    click.option(
        "--webhook-secret", envvar="SANDBOX_WEBHOOK_SECRET", help="capsolution: what signs them. Default: not signed."
    ),
    click.option(
        "--registered-host",
        "registered_hosts",
        multiple=True,
        help="2captcha, ruCaptcha: a host that may be called back; may be repeated. Default: this machine.",
    ),
    click.option(
        "--callback-for-sync", is_flag=True, help="Call back for synchronous tasks too. Unknown; placeholder: no."
    ),
    click.option(
        "--max-polls", type=_COUNT, help="Per task, 0: any. capsolver: 120; onecaptcha unknown, placeholder 120."
    ),
    click.option(
        "--window",
        type=_NOT_NEGATIVE,
        help="Seconds from creation in which a task can be read. capsolver: 300; onecaptcha unknown, placeholder 330.",
    ),
    click.option(
        "--task-timeout",
        type=_NOT_NEGATIVE,
        help="Seconds until a task fails. capsolver: 120; onecaptcha: 300, its code unknown: ERROR_TASK_TIMEOUT.",
    ),
    click.option("--poll-interval", type=_NOT_NEGATIVE, help="Advised seconds between two polls. Both: 3."),
    click.option(
        "--enforce-interval",
        is_flag=True,
        help="Refuse polls that come sooner, with ERROR_RATE_LIMIT. Unknown whether either does; placeholder: no.",
    ),
    click.option(
        "--ban-errors",
        type=_COUNT,
        help="Errors in a minute that block an address; capsolver: 1000; onecaptcha unknown, placeholder 0 (none).",
    ),
    click.option("--ban-seconds", type=_NOT_NEGATIVE, help="capsolver: 1800; onecaptcha unknown, placeholder 1800."),
    click.option(
        "--key-block-errors", type=_COUNT, help="Errors in a minute that block a key. Unknown; placeholder: 0, none do."
    ),
    click.option(
        "--key-block-seconds", type=_NOT_NEGATIVE, help="capsolver: 300; onecaptcha unknown, placeholder 300."
    ),
    *(
        click.option(
            f"--{rate.name.replace('_', '-')}",
            type=click.FloatRange(0, 1),
            default=0.0,
            metavar="PROBABILITY",
            help=rate.metadata["help"],
        )
        for rate in fields(FaultRates)
    ),
]

_LIMITS = {
    "max_polls": "max_polls",
    "window": "window_seconds",
    "task_timeout": "task_timeout_seconds",
    "poll_interval": "poll_interval_seconds",
    "ban_errors": "ban_errors",
    "ban_seconds": "ban_seconds",
    "key_block_errors": "key_block_errors",
    "key_block_seconds": "key_block_seconds",
}


def _with_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(
    "sandbox",
    short_help="Run a provider on this machine, with faults on demand.",
    epilog="Exit codes: 0 stopped by SIGINT or SIGTERM, 2 wrong options or a port that cannot be had.",
    context_settings={"max_content_width": 110},
)
@_with_options
def sandbox(**options: Any) -> None:
    """Run a provider on this machine that speaks like a real one, with faults on demand.

    Any clientKey that is not empty is right, unless --client-key names some. The answer is a function of the task's
    content. What is counted stands at GET /sandbox/stats. A single task orders faults in its field "sandbox", as in
    {"type": "...", "sandbox": {"callback": "lost", "latencySeconds": 0.5}}.

    onecaptcha, yescaptcha, ezcaptcha and ezcaptchasync never call back, whatever the callback options say. A task of
    in.php orders faults in its field sandbox too, as JSON in text. How hardcaptcha is asked is unknown: createTask and
    getTaskResult of its relatives stand in for that.

    Where an option names a number for capsolver and onecaptcha only, the others have those in client.sandbox.limits.
    """
    if options["dialect"] is None:
        # Not left to click, whose text for a missing choice goes over several lines.
        raise click.UsageError(f"--dialect: expected one of {', '.join(sorted(PROFILES))}")
    try:
        settings = _settings(options)
        provider = Sandbox(options["dialect"], settings, port=options["port"])
    except BadArgumentError as error:
        raise click.UsageError(str(error)) from None
    with asyncio.Runner() as runner:
        runner.run(_serve(provider, f"{options['dialect']} sandbox at {{url}} (seed {settings.seed})", options["port"]))


def main() -> None:
    """Run the command by itself: `python -m client.sandbox`; one clear line and exit code 2 for what is refused."""
    with standard_streams():
        _main()


def _main() -> None:
    try:
        sandbox.main(prog_name="sandbox", standalone_mode=False)
    except CannotShowError as error:
        if not error.is_closed_pipe:
            tell(f"sandbox: {error}")
        sys.exit(1)
    except click.ClickException as error:
        tell(f"sandbox: {error.format_message()}")
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


async def _serve(provider: Sandbox, ready: str, port: int) -> None:
    stop = asyncio.Event()
    on_signals(stop.set, signal.SIGTERM, signal.SIGINT)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(provider)
        except OSError as error:
            raise click.UsageError(f"--port: cannot listen on {HOST}:{port}: {error.strerror or error}") from None
        # It serves on even if nobody can read this.
        with suppress(CannotShowError):
            show(ready.format(url=provider.url))
        await stop.wait()


def _settings(options: dict[str, Any]) -> Settings:
    """Return the settings that the options ask for; an option not given leaves the default.

    Raises:
        BadArgumentError: a value out of its range.
    """
    plain = Settings()
    shortest = _or(options["latency_min"], min(plain.latency_seconds[0], _or(options["latency_max"], 0.5)))
    return Settings(
        seed=_or(options["seed"], random.SystemRandom().randrange(2**31)),
        latency_seconds=(shortest, _or(options["latency_max"], max(plain.latency_seconds[1], shortest))),
        rates=FaultRates(**{rate.name: options[rate.name] for rate in fields(FaultRates)}),
        limits=_limits(options),
        client_keys=frozenset(options["client_keys"]),
        balance=_or(options["balance"], plain.balance),
        cost=_or(options["cost"], plain.cost),
        async_images=options["async_images"],
        is_status_sent=not options["no_status"],
        error_status=options["error_status"],
        callback_body=options["callback_body"],
        callback_has_task_id=_either(options["callback_with_task_id"], options["callback_without_task_id"]),
        callback_timeout_seconds=_or(options["callback_timeout"], plain.callback_timeout_seconds),
        is_sync_called_back=options["callback_for_sync"],
        account_webhook_url=options["account_webhook_url"],
        webhook_secret=options["webhook_secret"].encode() if options["webhook_secret"] else None,
        registered_hosts=frozenset(options["registered_hosts"]) or plain.registered_hosts,
    )


def _limits(options: dict[str, Any]) -> Limits:
    given = {limit: options[name] for name, limit in _LIMITS.items() if options[name] is not None}
    return replace(limits_of(options["dialect"]), is_interval_enforced=options["enforce_interval"], **given)


def _either(with_it: bool, without_it: bool) -> bool | None:
    return with_it if with_it is not without_it else None


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
