"""Forms and queries of an id and an answer: the fields named by a dialect are read, all others ignored."""

from __future__ import annotations

from itertools import count

import pytest

from client.errors import UnreadableError
from client.providers import DIALECTS
from client.providers.readings import Bare, CallbackReading, Failed

_CODED = sorted(name for name, dialect in DIALECTS.items() if dialect.callback and dialect.callback.shape == "code")
coded = pytest.mark.parametrize("provider", _CODED)

# With `{id}` and `{code}` in place of a provider's names for them.
_READABLE = [
    b"{id}=70000000010&{code}=abc",
    b"{id}=70000000010&{code}=abc&",
    b"&{id}=70000000010&&{code}=abc",
    b"{id}=70000000010&{code}=abc&worker",
    b"worker&{id}=70000000010&{code}=abc&=&=x",
    b"{id}=70000000010&{code}=abc&worker=%",
    b"{id}=70000000010&{code}=abc&worker=%zz%f",
    b"{id}=70000000010&{code}=abc&worker=%ff%fe",
    b"{id}=70000000010&{code}=abc&worker=\xff\xfe",
    b"{id}=70000000010&{code}=abc&\xff=1&%ff=2",
    "{id}=70000000010&{code}=abc&работник=жираф".encode(),
    b"{id}=70000000010&{code}=abc&worker=1&worker=2",
    b"{id}=70000000010&{id}=70000000010&{code}=abc&{code}=%61bc",
    b"x=1&" * 500 + b"{id}=70000000010&{code}=abc",
    b"{id}=70000000010&{code}=abc" + b"&x=1" * 5000,
    b"{id}=70000000010&{code}=abc&ID=8&Code=other",
]
_UNREADABLE = [
    b"{id}=70000000010&{code}=abc&{id}=70000000011",
    b"{id}=70000000010&{code}=abc&{code}=abd",
    b"{id}=70000000010&{code}=abc&{id}",
    b"{id}=70000000010&{code}=%ff",
    b"{id}=70000000010&{code}=\xff",
    b"{id}=%ff&{code}=abc",
    b"{id}=70000000010;{code}=abc",
    b"{id}=70000000010&{code}",
    b"{code}=abc",
    b"x=1&" * 1000 + b"{id}=70000000010&{code}=abc",
]


def _read(provider: str, form: bytes) -> CallbackReading:
    dialect = DIALECTS[provider]
    rule = dialect.callback
    assert rule is not None
    form = form.replace(b"{id}", rule.id_field.encode()).replace(b"{code}", rule.code_field.encode())
    if rule.status_field is not None:
        form = rule.status_field.encode() + b"=1&" + form
    return dialect.read_callback(query=form, body=b"") if "GET" in rule.methods else _posted(provider, form)


def _posted(provider: str, body: bytes) -> CallbackReading:
    return DIALECTS[provider].read_callback(query=b"", body=body)


@coded
@pytest.mark.parametrize("form", _READABLE, ids=count())
def test_an_odd_field_does_not_cost_the_answer(provider: str, form: bytes) -> None:
    """A separator too many, another encoding, a name alone, many fields: id and code are read all the same.

    (dotnet/aspnetcore#12381, spray/spray#32)
    """
    callback = _read(provider, form)

    assert (str(callback.task_id), callback.reading) == ("70000000010", Bare("abc"))


@coded
@pytest.mark.parametrize("form", _UNREADABLE, ids=count())
def test_what_is_unclear_about_id_or_code_is_unreadable(provider: str, form: bytes) -> None:
    """Two different ids or answers, bytes outside UTF-8, or none at all: nothing is guessed."""
    with pytest.raises(UnreadableError):
        _read(provider, form)


def test_a_status_that_comes_twice_has_to_be_the_same() -> None:
    """Two different values of the status field are unreadable too."""
    query = b"captcha_id=a1&status=0&status=%s&worker"
    read = DIALECTS["ucaptcha"].read_callback

    assert read(query=query % b"0", body=b"") == CallbackReading("a1", Failed(1, "RECEIVER_REASON_NOT_GIVEN"))
    with pytest.raises(UnreadableError, match="status: given twice"):
        read(query=query % b"1", body=b"")


@pytest.mark.parametrize(
    "body",
    [
        b"\r\nid=70000000010&code=abc\r\n",
        b"\xef\xbb\xbfid=70000000010&code=abc",
        b"\xef\xbb\xbf\n id=70000000010&code=abc",
        b' \xef\xbb\xbf {"id":70000000010,"code":"abc"}',
        b"%69d=70000000010&c%6Fde=abc",
    ],
)
def test_what_stands_around_a_form_changes_nothing(body: bytes) -> None:
    """A byte order mark, white space, and needless escapes are accepted."""
    assert _posted("twocaptcha", body) == CallbackReading(70000000010, Bare("abc"))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (b"44795+sds", "44795 sds"),
        (b"44795%2Bsds", "44795+sds"),
        (b"100%", "100%"),
        (b"%D0%B6", "ж"),
        ("жираф".encode(), "жираф"),
        (b"coordinates:x=49,y=235;x=52,y=31", "coordinates:x=49,y=235;x=52,y=31"),
    ],
)
def test_an_answer_is_what_a_form_says(code: bytes, text: str) -> None:
    """A plus is a blank, escapes are UTF-8, and all other characters stay as they are."""
    assert _posted("twocaptchav1", b"id=7&code=" + code) == CallbackReading("7", Bare(text))
