"""The command `sandbox`: a provider on this machine, until a signal ends it."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import fields, replace
from math import isinf
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from client.errors import BadArgumentError
from client.output import CannotShowError, show, standard_streams, tell
from client.sandbox.faults import Faults, wire_name
from client.sandbox.provider import HOST, Sandbox
from client.sandbox.settings import CALLBACK_FAULTS, HTTP_FAULTS, FaultRates, Option, SandboxLimits, SandboxSettings
from client.sandbox.wires.profiles import PROFILES, profile_named
from client.signals import on_signals

__all__ = ["main", "read_settings", "sandbox"]


def _options_of(model: type[Any]) -> Iterator[click.Option]:
    """Make the options declared by the fields of a settings model."""
    types = get_type_hints(model)
    for setting in fields(model):
        for option in setting.metadata.get("options", ()):
            yield click.Option(
                [option.name],
                help=option.help,
                metavar=option.metavar,
                envvar=option.variable,
                **_click_type(types[setting.name], option),
            )


def _click_type(declared: Any, option: Option) -> dict[str, Any]:
    """Return how click reads an option for a field of the declared type."""
    kinds = get_args(declared) if isinstance(declared, UnionType) else (declared,)
    kind = kinds[0]
    if kind is bool:
        return {"is_flag": True}
    if get_origin(kind) is Literal:
        return {"type": click.Choice(get_args(kind))}
    if get_origin(kind) is frozenset:
        return {"multiple": True}
    if kind is int:
        least, most = (None if isinf(end) else int(end) for end in option.span)
        return {"type": click.INT if least is most is None else click.IntRange(least, most)}
    if kind is float or get_origin(kind) is tuple:
        low, high = option.span
        return {"type": click.FloatRange(low, None if isinf(high) else high)}
    return {"type": click.STRING}


def _given(model: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a settings model that the options set. An option not given sets none."""
    found = {}
    for setting in fields(model):
        texts = [values[option.name] for option in setting.metadata.get("options", ())]
        if any(_is_given(text) for text in texts):
            found[setting.name] = setting.metadata["read"](*texts)
    return found


def _is_given(value: Any) -> bool:
    return value is not None and value is not False and value != ()


class _Command(click.Command):
    """The command, with its faults behind its options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section('Faults of one task, in its field "sandbox"'):
            formatter.write_dl([(wire_name(declared), declared.metadata["help"]) for declared in fields(Faults)])
        with formatter.section("Values of callback"):
            formatter.write_dl(list(CALLBACK_FAULTS.items()))
        with formatter.section("Values of createTask and getTaskResult"):
            formatter.write_dl(
                [*HTTP_FAULTS.items(), ("cut", "createTask only: the task is made, then the connection is cut.")]
            )


@click.command(
    "sandbox",
    cls=_Command,
    short_help="Run a provider on this machine, with faults on demand.",
    epilog="Exit codes: 0 stopped by SIGINT or SIGTERM, 2 wrong options or a port that cannot be had.",
    context_settings={"max_content_width": 110},
)
@click.option(
    "--dialect",
    type=click.Choice(sorted(PROFILES)),
    metavar="PROVIDER",
    help=f"The provider to speak like; required. One of {', '.join(sorted(PROFILES))}.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1; 0, the default: any free one.")
@click.pass_context
# Positional, as the type of `pass_context` asks: an option may be named `context`.
def sandbox(context: click.Context, /, dialect: str | None, port: int, **_: Any) -> None:
    """Run a provider on this machine with the answers of a real one, and with faults on demand.

    Any clientKey but an empty one is right, unless --client-key names some. The answer depends on the task's content
    alone. GET /sandbox/stats shows all counts. A single task requests faults in its field "sandbox", as in
    {"type": "...", "sandbox": {"callback": "lost", "latencySeconds": 0.5}}.

    Providers without callbacks, such as onecaptcha, ignore the callback options. A task of in.php requests faults in
    its field sandbox too, as JSON in text. The requests of hardcaptcha are unknown, so the sandbox takes createTask and
    getTaskResult instead.

    The help of some options names numbers for capsolver and onecaptcha only. The numbers of the others are in
    client/providers/catalog.toml, or else in client.sandbox.wires.profiles.
    """
    if dialect is None:
        # Not left to click, whose text for a missing choice goes over several lines.
        raise click.UsageError(f"--dialect: expected one of {', '.join(sorted(PROFILES))}")
    try:
        settings = read_settings(dialect, context.params)
        provider = Sandbox(dialect, settings, port=port)
    except BadArgumentError as error:
        raise click.UsageError(str(error)) from None
    with asyncio.Runner() as runner:
        runner.run(_serve(provider, f"{dialect} sandbox at {{url}} (seed {settings.seed})", port))


# Made from the settings, which click's decorators cannot do. In the help they stand behind the options above.
_OPTIONS = [option for model in (SandboxSettings, SandboxLimits, FaultRates) for option in _options_of(model)]
sandbox.params += _OPTIONS


def read_settings(dialect: str, params: Mapping[str, Any]) -> SandboxSettings:
    """Return the settings that the options ask for. Without its option, a setting has its default.

    Raises:
        BadArgumentError: a value is out of its range.
    """
    # click names the values after Python ("client_key"), the settings name their options as given ("--client-key").
    values = {option.opts[0]: params[str(option.name)] for option in _OPTIONS}
    return SandboxSettings(
        **{"seed": random.SystemRandom().randrange(2**31), **_given(SandboxSettings, values)},
        rates=FaultRates(**_given(FaultRates, values)),
        limits=replace(profile_named(dialect).limits, **_given(SandboxLimits, values)),
    )


def main() -> None:
    """Run the command by itself, as `python -m client.sandbox`. An error is one line, with exit code 2."""
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
