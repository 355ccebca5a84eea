"""The tables of error codes against the published lists of the providers, kept as data beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from client.providers import DIALECTS, Dialect
from client.providers.codes import FAMILY_CODES, Code, code_named
from client.providers.facts import Mark
from client.providers.readings import Failed, Pending, Reaction, Reading, Refused, Unknown
from client.providers.v1_family import V1_FAMILY

PUBLISHED = tomllib.loads(Path(__file__).with_name("published_codes.toml").read_text())


@dataclass(frozen=True)
class Published:
    """One code of one provider; `pause_seconds` None where none is documented."""

    provider: str
    name: str
    reaction: Reaction
    about: str
    pause_seconds: float | None

    def __str__(self) -> str:
        return f"{self.provider}-{self.name}"


def _published() -> list[Published]:
    found = []
    for entry in PUBLISHED["lists"]:
        for provider in (*entry["providers"], *entry.get("also", ())):
            for name_of_class, names in entry["codes"].items():
                reaction, about = name_of_class.split()
                pauses = entry.get("pauses", {})
                found += [Published(provider, name, Reaction(reaction), about, pauses.get(name)) for name in names]
    return found


CODES = _published()
NAMES = {code.name for code in CODES}


def _read(dialect: Dialect, name: str) -> Reading:
    """Return this error as an answer to a poll, as the provider writes it."""
    if dialect.family is V1_FAMILY:
        return dialect.read_task_result({"status": 0, "request": name})
    return dialect.read_task_result({"errorId": 1, "errorCode": name, "errorDescription": "why"})


@pytest.mark.parametrize("published", CODES, ids=str)
def test_every_published_code_has_its_class(published: Published) -> None:
    """A code on a provider's list is on ours, with its reaction, its subject and the documented pause."""
    code = code_named(DIALECTS[published.provider].codes, published.name)

    assert code is not None
    assert (code.reaction, code.about) == (published.reaction, published.about)
    if published.pause_seconds is not None:
        assert code.pause_seconds == published.pause_seconds


@pytest.mark.parametrize("published", CODES, ids=str)
def test_every_published_code_is_read_as_such(published: Published) -> None:
    """At a poll, only a code about the task ends it; an error about the request says how long to wait."""
    dialect = DIALECTS[published.provider]

    reading = _read(dialect, published.name)

    match published.about:
        case "task":
            assert isinstance(reading, Failed)
            assert reading.error_code == published.name
        case "id":
            assert isinstance(reading, Unknown)
        case "state":
            assert isinstance(reading, Pending)
        case about:
            code = code_named(dialect.codes, published.name)
            assert isinstance(reading, Refused)
            assert code is not None
            assert (reading.reaction, reading.about, reading.pause_seconds, reading.is_ban) == (
                published.reaction,
                about,
                code.pause_seconds,
                code.is_ban,
            )


def _is_listed(name: str, names: set[str]) -> bool:
    return name in names or (name.endswith("*") and any(other.startswith(name[:-1]) for other in names))


def test_no_code_is_made_up() -> None:
    """Every code of the shared table is in some list."""
    assert [name for name in FAMILY_CODES if not _is_listed(name, NAMES)] == []


@pytest.mark.parametrize("provider", sorted(DIALECTS))
def test_what_a_provider_changes_is_on_its_own_list(provider: str) -> None:
    """A provider's table differs from the shared one only in codes published by this provider."""
    changed = {name for name, code in DIALECTS[provider].codes.items() if FAMILY_CODES.get(name) != code}
    names = {code.name for code in CODES if code.provider == provider}

    assert [name for name in sorted(changed) if not _is_listed(name, names)] == []


def test_every_provider_has_a_list_or_a_reason() -> None:
    """Every provider of the catalog is accounted for, by a page or by the reason why there is none."""
    own = {provider for entry in PUBLISHED["lists"] for provider in entry["providers"]}

    assert own | PUBLISHED["withoutList"].keys() == set(DIALECTS)
    assert own & PUBLISHED["withoutList"].keys() == set()


@pytest.mark.parametrize("published", PUBLISHED["lists"], ids=lambda entry: entry["page"][:40])
def test_every_list_names_its_source(published: dict[str, Any]) -> None:
    """A list has its page and a mark; a pause belongs to a code of the list."""
    names = {name for codes in published["codes"].values() for name in codes}

    assert published["page"]
    assert published["mark"] in get_args(Mark)
    assert published.get("pauses", {}).keys() <= names


@pytest.mark.parametrize("provider", ["twocaptchav1", "rucaptchav1"])
def test_a_number_that_nobody_explains_is_a_limit_too(provider: str) -> None:
    """`ERROR: NNNN` is a limit on requests for any number, with or without the space."""
    expected = Code(Reaction.SLOW, "request", 600.0)

    assert [code_named(DIALECTS[provider].codes, name) for name in ("ERROR: 1099", "ERROR:1099")] == [expected] * 2


def test_names_of_one_provider_stay_answers_of_others() -> None:
    """Codes of uCaptcha without a prefix are errors there alone: elsewhere such a text is an answer."""
    assert [code_named(FAMILY_CODES, name) for name in ("TASK_NOT_SUPPORTED", "NO_PROVIDERS_AVAILABLE")] == [None] * 2
