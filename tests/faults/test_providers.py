"""`callback-receiver providers`, as an operator runs it."""

from __future__ import annotations

import json
from pathlib import Path

from client.providers import DIALECTS
from tests.faults.commands import run_command


async def test_all_are_listed(tmp_path: Path) -> None:
    """A line each, without a database and without keys."""
    shown = await run_command(tmp_path, "providers")

    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[0] for line in shown.out.splitlines()] == list(DIALECTS)


async def test_one_is_told_whole(tmp_path: Path) -> None:
    """Each fact with its mark and its source; the same as JSON."""
    shown = await run_command(tmp_path, "providers", "twocaptcha")
    as_json = json.loads((await run_command(tmp_path, "providers", "twocaptcha", "--json")).out)

    assert "POST, form: id and answer" in shown.out
    assert "documented: https://2captcha.com" in shown.out
    assert "unknown: " in shown.out
    assert len(as_json["facts"]) == len(DIALECTS["twocaptcha"].facts)


async def test_those_of_the_file_are_among_them(tmp_path: Path) -> None:
    """What an operator declares is told like the rest; unknown names are refused."""
    (tmp_path / "mine.toml").write_text('[mine]\nlike = "capsolver"\nbaseUrl = "https://mine.example"')

    shown = await run_command(tmp_path, "providers", "mine", PROVIDERS_FILE="mine.toml")

    assert "https://mine.example" in shown.out
    refused = await run_command(tmp_path, "providers", "nobody")
    assert refused.refusal.startswith("unknown provider 'nobody': expected one of")
