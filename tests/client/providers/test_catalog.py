"""The shipped providers: released figures, which stay, and the facts about several providers."""

from __future__ import annotations

import pytest

from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect, KeyLimits, Rate
from client.providers.codes import FAMILY_CODES
from client.providers.declaration import read_catalog

# First poll, first poll behind a callback, interval, number of polls, window. A new provider needs no row: its figures
# and their sources stand in the catalogue.
POLLS = {
    "capsolver": (3, 35, 3, 120, 300),
    "anticaptcha": (5, 45, 2, None, 300),
    "capmonster": (2, 35, 2, 120, 300),
    "capkill": (2, 35, 2, 120, 300),
    "captcha69": (2, 35, 2, 120, 300),
    "nextcaptcha": (3, 30, 3, None, 300),
    "twocaptcha": (5, 60, 5, None, 900),
    "rucaptcha": (5, 60, 5, None, 900),
    "twocaptchav1": (5, 60, 5, None, 900),
    "rucaptchav1": (5, 60, 5, None, 900),
    "ucaptcha": (5, 45, 5, 60, 300),
    "captchaai": (5, 45, 5, None, 900),
    "hardcaptcha": (5, 35, 3, None, 300),
    "capsolution": (5, 5, 3, None, 300),
    "scrapeless": (5, 35, 3, None, 300),
    "onecaptcha": (10, 10, 3, None, 300),
    "yescaptcha": (10, 10, 3, 120, 300),
    "ezcaptcha": (3, 3, 3, 60, 300),
    "ezcaptchasync": (3, 3, 3, 60, 300),
}
_TWOCAPTCHA = KeyLimits(submits=Rate(60, 3), polls_for_each=20, polls_for_all=1200)
_EZCAPTCHA = KeyLimits(errors=Rate(30, 60))
LIMITS = {
    "capsolver": KeyLimits(errors=Rate(1000, 60)),
    **dict.fromkeys(("twocaptcha", "rucaptcha", "twocaptchav1", "rucaptchav1"), _TWOCAPTCHA),
    **dict.fromkeys(("ezcaptcha", "ezcaptchasync"), _EZCAPTCHA),
}
# Codes with another meaning than in the family: reaction, subject, pause, ban.
_BANS = {"ERROR_IP_BANNED": ("slow", "request", 300, True), "ERROR_ZERO_BALANCE": ("stop", "balance", 60, False)}
_EZ_CODES = {
    "ERROR_IP_BANNED": ("slow", "request", 600, True),
    "ERROR_REQUEST_BANNED": ("slow", "request", 60, False),
}
CODES = {
    **dict.fromkeys(("twocaptcha", "rucaptcha", "twocaptchav1", "rucaptchav1"), _BANS),
    "ucaptcha": {
        "TASK_NOT_SUPPORTED": ("stop", "task", 0, False),
        "NO_PROVIDERS_AVAILABLE": ("slow", "request", 5, False),
    },
    "captchaai": {
        "ERROR_ZERO_BALANCE": ("slow", "request", 5, False),
        "ERROR_SERVER_ERROR": ("slow", "request", 10, False),
        "ERROR_INTERNAL_SERVER_ERROR": ("slow", "request", 10, False),
    },
    "ezcaptcha": _EZ_CODES,
    "ezcaptchasync": {**_EZ_CODES, "ERROR_SERVICE_TIMEOUT": ("again", "task", 0, False)},
}
ONE_FACT = '{ about = "a", known = "k", mark = "observed", source = "s" }'
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.provider)
released = pytest.mark.parametrize("dialect", [DIALECTS[name] for name in POLLS], ids=[*POLLS])


def test_the_order_of_providers_stays() -> None:
    """Names and their order appear in tables and help texts. Names stand in URLs and in rows of databases."""
    assert [name for name in DIALECTS if name in POLLS] == [*POLLS]
    assert [dialect.provider for dialect in DIALECTS.values()] == [*DIALECTS]


@released
def test_polls(dialect: Dialect) -> None:
    """The times of polls are those of the table."""
    plan = dialect.polls
    first_waits = (plan.first_after_seconds, plan.first_after_callback_seconds)

    assert (*first_waits, plan.interval_seconds, plan.max_polls, plan.window_seconds) == POLLS[dialect.provider]
    assert plan.grace_seconds == 30


@released
def test_limits_of_a_key(dialect: Dialect) -> None:
    """Rates and bans are those of the table, and by default only our own courtesy limit."""
    assert dialect.key_limits == LIMITS.get(dialect.provider, KeyLimits())


@released
def test_own_meanings_of_codes(dialect: Dialect) -> None:
    """The codes of the table differ from the family, and all others are as in the family."""
    own = {
        name: (code.reaction.value, code.about, code.pause_seconds, code.is_ban)
        for name, code in dialect.codes.items()
        if FAMILY_CODES.get(name) != code
    }

    assert own == CODES.get(dialect.provider, {})
    assert dialect.codes.keys() >= FAMILY_CODES.keys()


@every_dialect
def test_every_provider_has_facts_and_a_title(dialect: Dialect) -> None:
    """Each fact has a source, and no provider has the same fact twice."""
    assert dialect.title
    assert dialect.facts
    assert all(fact.source for fact in dialect.facts)
    assert len({(fact.about, fact.known) for fact in dialect.facts}) == len(dialect.facts)


def test_facts_about_several_providers() -> None:
    """`factsOf` adds shared facts, and those of a provider before it, with their certainty."""
    shared = f'[_families.both]\ntitle = "Both"\ntext = "Two."\nfacts = [{ONE_FACT}]\n'
    tables = '[one]\napi = "json"\nfactsOf = ["both"]\n[two]\nlike = "one"\nfactsOf = ["one"]'

    dialects = read_catalog((shared + tables).encode())

    assert [*dialects] == ["one", "two"]
    assert dialects["one"].facts == dialects["two"].facts
    assert [(fact.about, fact.mark) for fact in dialects["two"].facts] == [("a", "observed")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[_families.both]\ntitle = 'Both'", r"\[_families.both\] text: "),
        (b'[one]\napi = "json"\nfactsOf = ["none"]', r"\[one\] factsOf: expected some of "),
    ],
)
def test_errors_name_the_table(text: bytes, message: str) -> None:
    """The table, the field and the expected value are named."""
    with pytest.raises(BadArgumentError, match=message):
        read_catalog(text)
