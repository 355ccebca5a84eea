"""The console script `callback-receiver`: the group of commands, and the exit codes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import click

from client.errors import BadArgumentError, CallbackReceiverError
from client.output import CannotShowError, standard_streams, tell
from client.version import VERSION
from receiver.commands.callback_url import callback_url
from receiver.commands.canary import canary
from receiver.commands.database.backup import backup
from receiver.commands.database.copy import copy
from receiver.commands.database.prune import prune_command
from receiver.commands.database.redeliver import redeliver
from receiver.commands.database.restore import new_log_command, restore_command
from receiver.commands.doctor.command import doctor
from receiver.commands.explain import explain
from receiver.commands.healthcheck import healthcheck
from receiver.commands.keys import keys
from receiver.commands.new_signing_key import new_signing_key
from receiver.commands.pingback import pingback
from receiver.commands.providers import providers
from receiver.commands.serve import serve
from receiver.errors import CannotStartError

__all__ = ["cli", "main"]

SECTIONS: Mapping[str, Sequence[click.Command]] = MappingProxyType(
    {
        "Run": (serve,),
        "Control access": (keys,),
        "Set up callbacks": (providers, callback_url, new_signing_key, pingback),
        "Find problems": (doctor, canary, explain, healthcheck),
        "Maintain the database": (backup, restore_command, copy, new_log_command, redeliver, prune_command),
    }
)
"""All commands in the order of their use, as `--help` lists them."""


class _Sections(click.Group):
    """A group with its commands listed by section instead of by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        column = max(map(len, self.commands))
        # The indent before a name and the gap behind it.
        help_width = formatter.width - column - 6
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{command.name:{column}}", command.get_short_help_str(help_width)) for command in commands]
                )


@click.group(
    cls=_Sections,
    commands=[command for commands in SECTIONS.values() for command in commands],
    epilog="Settings come from RECEIVER_ variables in the environment, from a .env file or from a secrets folder.",
)
@click.version_option(VERSION, message="%(prog)s %(version)s")
def cli() -> None:
    """Receive the callbacks of createTask services, store them durably and wake waiting clients."""


def main() -> None:
    """Run a command. An error becomes one line on standard error and an exit code."""
    with standard_streams():
        _main()


def _main() -> None:
    try:
        cli.main(prog_name="callback-receiver", standalone_mode=False)
    except (CannotStartError, BadArgumentError) as error:
        _refuse(error)
    except ExceptionGroup as group:
        # Raised by a background task.
        refused = group.subgroup(CannotStartError)
        if refused is None:
            raise
        _refuse(_first_of(refused))
    except CannotShowError as error:
        # A closed pipe ends other programs without a message too.
        sys.exit(1) if error.is_closed_pipe else _exit(str(error), 1)
    except CallbackReceiverError as error:
        _exit(str(error), 1)
    except PermissionError as error:
        # From any look for a file, in a folder that this user may not search.
        if error.filename is None:
            raise
        _exit(f"{error.filename}: {error.strerror} for this user", 2)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _exit(error.format_message(), 2)
    except click.Abort:
        _exit("interrupted", 130)


def _first_of(error: Exception) -> Exception:
    return _first_of(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _refuse(error: Exception) -> None:
    _exit(str(error), 1 if isinstance(error, CannotStartError) and error.passes else 2)


def _exit(text: str, code: int) -> None:
    tell(f"callback-receiver: {text}")
    sys.exit(code)


if __name__ == "__main__":
    main()
