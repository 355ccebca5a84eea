"""`callback-receiver providers`, as an operator runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.providers import DIALECTS
from receiver.domain.shapes import Shape, ShapeRecord
from receiver.upkeep.shapes import AddShapes
from tests.faults.commands import run_command
from tests.receiver.storage.stores import NOW, running_store


async def test_all_are_listed(tmp_path: Path) -> None:
    """Each provider is one line. The command needs no database and no keys."""
    shown = await run_command(tmp_path, "providers")

    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[0] for line in shown.out.splitlines()] == list(DIALECTS)


async def test_one_is_told_whole(tmp_path: Path) -> None:
    """Each fact has its mark and its source, and JSON has the same facts."""
    shown = await run_command(tmp_path, "providers", "twocaptcha")
    as_json = json.loads((await run_command(tmp_path, "providers", "twocaptcha", "--json")).out)

    assert "POST, form: id and answer" in shown.out
    assert "documented: https://2captcha.com" in shown.out
    assert "unknown: " in shown.out
    assert len(as_json["facts"]) == len(DIALECTS["twocaptcha"].facts)


async def test_those_of_the_file_are_among_them(tmp_path: Path) -> None:
    """Declared providers are shown like the shipped ones. Unknown names are refused."""
    (tmp_path / "mine.toml").write_text('[mine]\nlike = "capsolver"\nbaseUrl = "https://mine.example"')

    shown = await run_command(tmp_path, "providers", "mine", PROVIDERS_FILE="mine.toml")

    assert "https://mine.example" in shown.out
    refused = await run_command(tmp_path, "providers", "nobody")
    assert refused.refusal.startswith("unknown provider 'nobody': expected one of")


async def test_what_was_observed_stands_beside_it(tmp_path: Path) -> None:
    """The shapes of callbacks follow the facts of the provider. Without callbacks, the command says so."""
    shape = Shape("POST", "application/json", "JSON {errorId: integer, taskId: string}")
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(AddShapes(records=[ShapeRecord("capsolver", shape, 7, 7, NOW, NOW)]))
    settings = {"DATABASE": str(tmp_path / "receiver.db")}

    async def shown(*arguments: str) -> str:
        """Return the output of the command."""
        return (await run_command(tmp_path, "providers", "--observed", *arguments, **settings)).out

    everything, one, other = [await shown(*names) for names in ((), ("capsolver",), ("anticaptcha",))]
    as_json = json.loads(await shown("capsolver", "--json"))

    shape_lines = f"    POST application/json: {shape.fields}\n      about 7 callbacks, readable, on 2023-11-14\n"
    assert (shape_lines in everything, one.endswith(f"callbacks received here:\n{shape_lines}")) == (True, True)
    assert other.endswith("callbacks received here: none\n")
    assert as_json["observed"] == [
        {
            "method": "POST",
            "contentType": "application/json",
            "fields": shape.fields,
            "callbacks": 7,
            "readable": 7,
            "firstSeen": "2023-11-14T22:13:20+00:00",
            "lastSeen": "2023-11-14T22:13:20+00:00",
        }
    ]


@pytest.mark.sqlite
async def test_without_a_database_nothing_was_observed(tmp_path: Path) -> None:
    """The refusal names the missing database, and none is made."""
    refused = await run_command(tmp_path, "providers", "--observed", DATABASE=str(tmp_path / "none.db"))

    assert refused.refusal.startswith(f"{tmp_path / 'none.db'}: there is no database")
    assert not (tmp_path / "none.db").exists()
