"""The help of `callback-receiver`: commands in sections, one line each."""

from __future__ import annotations

from click.testing import CliRunner

from receiver.__main__ import SECTIONS, cli


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    """Each section has its title, and the description of each command is a sentence on one line."""
    lines = [line.strip() for line in CliRunner().invoke(cli, ["--help"], terminal_width=80).output.splitlines()]
    shown = lines[lines.index("Run:") :]

    for title, commands in SECTIONS.items():
        start = shown.index(f"{title}:")
        names = [line.split(maxsplit=1)[0] for line in shown[start + 1 : start + 1 + len(commands)]]
        assert names == [command.name for command in commands]
        assert all(line.endswith(".") for line in shown[start + 1 : start + 1 + len(commands)])
    assert [line for line in shown if line.endswith(":")] == [f"{title}:" for title in SECTIONS]


def test_every_command_is_in_one_section() -> None:
    """The group and its sections hold the same commands."""
    listed = [command.name for commands in SECTIONS.values() for command in commands]

    assert listed == list(cli.commands)
    assert len(set(listed)) == len(listed)
