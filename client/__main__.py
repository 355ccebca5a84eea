"""The commands of the client: `callback-client`, which is also `python -m client`."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType

import click

from client.errors import BadArgumentError, CallbackReceiverError
from client.logs import log_to_terminal
from client.output import CannotShowError, standard_streams, tell
from client.version import VERSION

__all__ = ["main"]

_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "demo": "client.commands.demo",
        "sandbox": "client.sandbox.command",
        "solve": "client.commands.solve",
        "watch": "client.commands.watch",
        "report": "client.commands.account",
        "balance": "client.commands.account",
    }
)
"""The module of each command, in the order of use. A module is imported when its command is used."""


class _Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _MODULES:
            return None
        command: click.Command = getattr(importlib.import_module(_MODULES[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands)
@click.version_option(VERSION, message="%(prog)s %(version)s")
def cli() -> None:
    """Submit tasks to solving services and get each answer once, by callback or by polling.

    Keys are read from the environment. Arguments would show them to other users of the machine.
    """
    log_to_terminal(logging.WARNING)


def main() -> None:
    """Run a command. Report an error as one line on standard error, with its exit code."""
    with standard_streams():
        _main()


def _main() -> None:
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except (BadArgumentError, click.ClickException) as error:
        _exit(error.format_message() if isinstance(error, click.ClickException) else str(error), 2)
    except CannotShowError as error:
        # No text for a closed pipe, like other programs: its reader, such as `head`, had enough.
        sys.exit(1) if error.is_closed_pipe else _exit(str(error), 1)
    except CallbackReceiverError as error:
        _exit(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        _exit("interrupted", 130)


def _exit(text: str, code: int) -> None:
    tell(f"client: {' '.join(text.split())}")
    sys.exit(code)


if __name__ == "__main__":
    main()
