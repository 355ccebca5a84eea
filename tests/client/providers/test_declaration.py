"""Providers declared by users: everything from a known provider, with changes, or from a family."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import TaskClient
from client.config.providers import load_providers
from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect, KeyLimits, Rate, SignatureRule, read_providers
from client.providers.codes import Code
from client.providers.readings import Bare, CallbackReading, Failed, Reaction, Ready


def declared(text: str, name: str = "mine") -> Dialect:
    """Return the provider of this name in the file."""
    return read_providers(text.encode(), DIALECTS)[name]


def test_one_like_another() -> None:
    """A table with `like` and an endpoint is a provider, and the shipped ones are still there."""
    dialects = read_providers(b'[mine]\nlike = "capmonster"\nbaseUrl = "https://api.example.com/v2/"', DIALECTS)

    mine, model = dialects["mine"], DIALECTS["capmonster"]
    assert (mine.provider, mine.base_url) == ("mine", "https://api.example.com/v2")
    assert (mine.polls, mine.callback, mine.codes) == (model.polls, model.callback, model.codes)
    assert dialects["capsolver"] is DIALECTS["capsolver"]
    assert {fact.mark for fact in mine.facts} == {"inferred", "unknown"}
    assert "endpoint" not in {fact.about for fact in mine.facts}
    assert mine.facts[0].source.startswith("like capmonster: https://")


def test_what_stands_beside_like_replaces_that_alone() -> None:
    """Limits, codes, solutions and the callback keep the values not named."""
    mine = declared(
        """
        [mine]
        like = "twocaptcha"
        idType = "text"
        answerLifeSeconds = 60
        [mine.polls]
        intervalSeconds = 7
        [mine.limits]
        submits = {count = 5, seconds = 1}
        [mine.callback]
        methods = ["GET", "POST"]
        signature = {headers = ["X-Signature"]}
        [mine.codes.ERROR_TEAPOT]
        reaction = "slow"
        about = "request"
        pauseSeconds = 3
        [mine.solutions]
        TeapotTask = ["tea"]
        """
    )

    model = DIALECTS["twocaptcha"]
    assert (mine.polls.interval_seconds, mine.polls.window_seconds) == (7, model.polls.window_seconds)
    assert mine.key_limits == KeyLimits(submits=Rate(5, 1), polls_for_each=20, polls_for_all=1200)
    assert mine.callback is not None
    assert (mine.callback.methods, mine.callback.shape) == (frozenset({"GET", "POST"}), "code")
    assert mine.callback.signature == SignatureRule(headers=("X-Signature",))
    assert mine.codes["ERROR_TEAPOT"].reaction is Reaction.SLOW
    assert mine.codes["ERROR_ZERO_BALANCE"] == model.codes["ERROR_ZERO_BALANCE"]
    assert mine.solution_of("x", "TeapotTask") == {"tea": "x"}
    assert mine.solution_of("x", "ImageToTextTask") == {"text": "x"}
    assert mine.read_callback(query=b"", body=b"id=12&code=abc") == CallbackReading("12", Bare("abc"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ('reaction = "slow"', Code(Reaction.SLOW, "request")),
        ('reaction = "wait"', Code(Reaction.WAIT, "request")),
        ('reaction = "again"', Code(Reaction.AGAIN, "task")),
        ('reaction = "slow"\nabout = "key"\nisBan = true', Code(Reaction.SLOW, "key", is_ban=True)),
    ],
)
def test_a_code_that_passes_ends_no_task(fields: str, code: Code) -> None:
    """Without `about`, the subject of a code follows its reaction: wait and slow never end a task."""
    assert declared(f'[mine]\napi = "json"\n[mine.codes.ERROR_TEAPOT]\n{fields}').codes["ERROR_TEAPOT"] == code


def test_a_known_provider_is_changed() -> None:
    """Users may state undocumented facts of a shipped provider."""
    changed = declared("[capsolver]\n[capsolver.callback]\ntaskId = 'missing'", "capsolver")

    assert changed.callback is not None
    assert changed.callback.task_id == "missing"
    assert changed.base_url == DIALECTS["capsolver"].base_url


def test_a_provider_without_callbacks() -> None:
    """`callback = false` means that there are none, whatever the model has."""
    assert declared('[mine]\nlike = "capsolver"\ncallback = false').callback is None


def test_false_takes_away_what_the_model_has() -> None:
    """Without endpoint and reports, the endpoint has to be given and no answer can be reported."""
    mine = declared('[mine]\nlike = "capmonster"\nbaseUrl = false\nreports = false')

    assert mine.base_url is None
    with pytest.raises(BadArgumentError, match="no way to report"):
        mine.report("k", 1, "ImageToTextTask", is_good=False)
    assert declared('[mine]\nlike = "capmonster"\nreports = []').reports == DIALECTS["capmonster"].reports


@pytest.mark.parametrize("model", ["capsolver", "twocaptchav1", "scrapeless"])
def test_a_time_limit_of_create_task(model: str) -> None:
    """A host with the solution in its createTask answer may take longer than usual."""
    mine = declared(f'[mine]\nlike = "{model}"\ncreateSeconds = 170')

    assert mine.create_task("k", {"type": "X"}).seconds == 170


def test_a_provider_like_scrapeless_by_its_family() -> None:
    """With `api = "scrapeless"` the client key goes into a header."""
    mine = declared('[mine]\napi = "scrapeless"\nbaseUrl = "https://api.example.com"')

    assert dict(mine.get_task_result("k", "a1").headers)["x-api-token"] == "k"
    assert mine.image_type is None


@pytest.mark.parametrize("api", ["json", "v1"])
def test_a_provider_of_a_family(api: str) -> None:
    """Without a model, a provider is polled slowly and has the codes of its family."""
    mine = declared(f'[mine]\napi = "{api}"\nbaseUrl = "https://api.example.com"')

    raw = b'{"errorId":0,"status":"ready","solution":{"text":"t"}}' if api == "json" else b"OK|t"
    assert isinstance(mine.read_task_result(mine.parse_answer(raw)), Ready)
    assert mine.callback is None
    assert mine.polls.interval_seconds >= 3


def test_one_of_which_only_callbacks_are_known() -> None:
    """With `api = "none"` callbacks are read, and no request can be made."""
    mine = declared('[mine]\napi = "none"\n[mine.callback]\nshape = "hardcaptcha"')

    callback = mine.read_callback(query=b"", body=b'{"id":"h1","status":"FAILED","result":{"token":null}}')
    assert isinstance(callback.reading, Failed)
    with pytest.raises(BadArgumentError, match="only its callbacks"):
        mine.create_task("k", {"type": "X"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mine", "not TOML"),
        ("\xff", "not TOML|name"),
        ("mine = 1", r"mine: expected a table"),
        ("[Mine]", r"\[Mine\]: a provider's name"),
        ("[mine]", r"\[mine\] expected like, or api"),
        ('[mine]\nlike = "yours"', r"\[mine\] like: expected one of anticaptcha"),
        ('[mine]\nlike = "capsolver"\napi = "json"', r"\[mine\] api: is that of capsolver"),
        ('[mine]\napi = "xml"', r"\[mine\] api: "),
        ('[mine]\napi = "json"\ncolour = 1', r"\[mine\] colour: there is no such field"),
        ('[mine]\napi = "json"\nbaseUrl = "example.com"', r"\[mine\] baseUrl: "),
        ('[mine]\napi = "json"\nbaseUrl = true', r"\[mine\] baseUrl: "),
        ('[mine]\napi = "json"\nreports = [{name = "x"}]', r"\[mine\] reports.0.isGood: "),
        ('[_families.x]\ntitle = "X"', r"\[_families\]: a provider's name"),
        ('[mine]\napi = "json"\ncallback = true', r"\[mine\] callback: expected a table, or false"),
        ('[mine]\napi = "json"\n[mine.callback]\nshape = "round"', r"\[mine\] callback.shape: "),
        ('[mine]\napi = "json"\n[mine.polls]\nwindowSeconds = 0', r"\[mine\] polls.windowSeconds: "),
        ('[mine]\napi = "json"\n[mine.polls]\nwindowSeconds = 2', r"\[mine\] polls.windowSeconds: expected more"),
        ('[mine]\napi = "json"\n[mine.polls]\nintervalSeconds = nan', r"\[mine\] polls.intervalSeconds: "),
        ('[mine]\napi = "json"\n[mine.codes.X]\nreaction = "panic"', r"\[mine\] codes.X.reaction: "),
        (
            '[mine]\napi = "json"\n[mine.codes.X]\nreaction = "slow"\nabout = "task"',
            r"\[mine\] codes.X: about: an error about the task ends it, which 'slow' does not",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    """The table, the field and the expected value are named."""
    with pytest.raises(BadArgumentError, match=message):
        read_providers(text.encode("latin-1"), DIALECTS)


def test_a_client_of_a_declared_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable names the file. Errors in it name the file too."""
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("CALLBACK_RECEIVER_PROVIDERS_FILE", str(path))
    with pytest.raises(BadArgumentError, match=r"providers\.toml: cannot be read"):
        TaskClient("mine", client_key="k")
    path.write_text('[mine]\nlike = "capsolver"\ncolour = 1')
    with pytest.raises(BadArgumentError, match=r"providers.toml: \[mine\] colour"):
        TaskClient("mine", client_key="k")
    path.write_text('[mine]\nlike = "capsolver"')

    assert TaskClient("mine", client_key="k")
    assert load_providers(path)["mine"].provider == "mine"
