"""Tokens of callback URLs: any text gets an answer, and only signed tokens verify."""

from __future__ import annotations

import string
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.domain.tokens import CallbackToken, Kind, check_token, make_token

ALPHABET = string.ascii_letters + string.digits + "-_"

# Surrogates, controls and astral characters are in it; a provider comes from a URL too.
any_text = st.text(st.characters(exclude_categories=()), max_size=80)
shaped = st.text(ALPHABET, min_size=64, max_size=64)
providers = st.sampled_from(["capsolver", "onecaptcha"]) | any_text
keys = st.binary(min_size=32, max_size=48)
kinds = st.sampled_from(Kind)
ids = st.uuids()
many = settings(deadline=None, max_examples=150)


@many
@given(token=any_text | shaped, provider=providers, given_keys=st.lists(keys, max_size=3))
def test_any_text_is_refused_without_an_error(token: str, provider: str, given_keys: list[bytes]) -> None:
    """Any other text gives None. A stranger can neither guess a token nor break the check."""
    assert check_token(token, provider, given_keys) is None


@many
@given(kind=kinds, token_id=ids, provider=providers, given_keys=st.lists(keys, min_size=1, max_size=4, unique=True))
def test_a_token_of_any_of_the_keys_verifies(
    kind: Kind, token_id: UUID, provider: str, given_keys: list[bytes]
) -> None:
    """A token made with any of the keys verifies as made. It has 64 characters of the URL-safe alphabet."""
    tokens = [make_token(kind, token_id, provider, key) for key in given_keys]

    assert [check_token(token, provider, given_keys) for token in tokens] == [CallbackToken(kind, str(token_id))] * len(
        tokens
    )
    assert {len(token) for token in tokens} == {64}
    assert set("".join(tokens)) <= set(ALPHABET)
    assert len(set(tokens)) == len(tokens)


@many
@given(kind=kinds, token_id=ids, provider=providers, key=keys, others=st.lists(keys, max_size=3))
def test_another_key_refuses_the_token(
    kind: Kind, token_id: UUID, provider: str, key: bytes, others: list[bytes]
) -> None:
    """A token signed with none of the keys is None."""
    token = make_token(kind, token_id, provider, key)

    assert check_token(token, provider, [other for other in others if other != key]) is None


@many
@given(
    kind=kinds,
    token_id=ids,
    key=keys,
    place=st.integers(0, 63),
    character=st.characters(exclude_categories=()) | st.sampled_from(ALPHABET),
)
def test_any_changed_character_is_refused(kind: Kind, token_id: UUID, key: bytes, place: int, character: str) -> None:
    """Each token has one spelling: another character in any place is None, unless it is the same."""
    token = make_token(kind, token_id, "capsolver", key)
    changed = token[:place] + character + token[place + 1 :]

    assert (check_token(changed, "capsolver", [key]) is not None) == (changed == token)


@many
@given(kind=kinds, token_id=ids, key=keys, place=st.integers(0, 64), added=any_text.filter(bool))
def test_anything_added_or_left_out_is_refused(kind: Kind, token_id: UUID, key: bytes, place: int, added: str) -> None:
    """A token with more or fewer characters is None, padding and line ends too."""
    token = make_token(kind, token_id, "capsolver", key)

    assert check_token(token[:place] + added + token[place:], "capsolver", [key]) is None
    assert check_token(token[: min(place, 63)], "capsolver", [key]) is None
    assert [check_token(token + end, "capsolver", [key]) for end in ("=", "\n", "\x00", " ")] == [None] * 4


@many
@given(token_id=ids, key=keys, made_for=providers, used_for=providers)
def test_the_provider_is_bound(token_id: UUID, key: bytes, made_for: str, used_for: str) -> None:
    """A token verifies for its own provider and for no other."""
    token = make_token(Kind.TASK, token_id, made_for, key)

    assert (check_token(token, used_for, [key]) is not None) == (made_for == used_for)


@many
@given(token_id=ids, key=keys)
def test_the_kind_is_bound(token_id: UUID, key: bytes) -> None:
    """A task's token cannot be turned into a standing one, because the kind is signed, too."""
    task = make_token(Kind.TASK, token_id, "capsolver", key)
    standing = make_token(Kind.STANDING, token_id, "capsolver", key)

    assert check_token(standing[:2] + task[2:], "capsolver", [key]) is None
    assert check_token(task[:2] + standing[2:], "capsolver", [key]) is None
