"""The table of API keys."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.domain.access.api_keys import MOST_KEYS, AddKey, KeyRing, NoteKeysUsed, RevokeKeys, ending_keys
from receiver.domain.records import SECOND
from receiver.errors import ReceiverError
from tests.receiver.keys import a_key
from tests.receiver.storage.stores import NOW, running_store


async def test_a_key_is_found_as_it_was_added(tmp_path: Path) -> None:
    """All of a key is kept, and a revocation keeps its first time."""
    first, _ = a_key("first", providers=("twocaptcha", "capsolver"), expires_at=NOW + 5)
    second, _ = a_key("first")
    async with running_store(tmp_path / "receiver.db") as store:
        for key in (first, second):
            await store.write(AddKey(key=key))
        await store.write(NoteKeysUsed(times={first.id: NOW + 3, "unknown": NOW}))
        await store.write(NoteKeysUsed(times={first.id: NOW + 2}))
        for now in (NOW + 7, NOW + 8):
            await store.write(RevokeKeys(ids=(second.id, "unknown"), now=now))
        kept = {key.id: key for key in await store.api_keys()}

    assert kept == {
        first.id: replace(first, last_used_at=NOW + 3),
        second.id: replace(second, revoked_at=NOW + 7),
    }


@pytest.mark.sqlite
async def test_no_secret_is_in_the_files(tmp_path: Path) -> None:
    """Only the digest of a secret is stored."""
    key, secret = a_key()
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(AddKey(key=key))
    files = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*")))  # noqa: ASYNC240  (small files)

    assert key.digest in files
    assert secret.encode() not in files


@pytest.mark.sqlite
async def test_a_full_table_drops_keys_that_ended(tmp_path: Path) -> None:
    """The oldest expired or revoked key makes room. Valid keys never do."""
    database = tmp_path / "receiver.db"
    async with running_store(database):
        pass
    rows = [(f"{number:04}", str(number).encode(), 1 if number == 7 else None) for number in range(MOST_KEYS)]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            "INSERT INTO api_key (id, name, digest, scopes, created_at, expires_at) VALUES (?, 'k', ?, '[]', 1, ?)",
            rows,
        )
    async with running_store(database) as store:
        await store.write(AddKey(key=a_key()[0]))
        with pytest.raises(ReceiverError) as refused:
            await store.write(AddKey(key=a_key()[0]))
        left = {key.id for key in await store.api_keys()}

    assert refused.value.slug == "quota-full"
    assert len(left) == MOST_KEYS
    assert "0007" not in left


def test_a_revoked_key_is_refused_though_the_settings_hold_it() -> None:
    """The revocation wins. And a receiver whose keys have all ended is not open."""
    key, _ = a_key()
    revoked = replace(key, revoked_at=NOW)
    ring = KeyRing([key.api_key], [revoked])

    assert ring.find(key.digest, NOW) is None
    assert not ring.is_empty
    assert not ring.valid(NOW)


def test_a_key_expires_at_its_time() -> None:
    """Until that moment the key is valid, and not at it."""
    key, _ = a_key(expires_at=NOW)
    ring = KeyRing((), [key])

    assert (ring.find(key.digest, NOW - 1), ring.find(key.digest, NOW)) == (key.api_key, None)
    assert (key.state(NOW - 1), key.state(NOW), replace(key, revoked_at=1).state(NOW)) == (
        "valid",
        "expired",
        "revoked",
    )


def test_keys_that_end_soon_are_found() -> None:
    """Two weeks ahead and a week afterwards, unless another key of the name lasts longer or the key was revoked."""
    day = 24 * 3600 * SECOND
    ends = {"soon": 14 * day, "later": 14 * day + 1, "just": 0, "lately": 1 - 7 * day, "before": -7 * day}
    keys = [a_key(name, expires_at=NOW + end)[0] for name, end in ends.items()]
    replaced = [a_key("both", expires_at=NOW + 1)[0], a_key("both")[0], a_key("given", expires_at=NOW + 1)[0]]
    twice = [a_key("twice", expires_at=NOW + end)[0] for end in (1, 3, 2)]
    revoked = replace(a_key("revoked", expires_at=NOW + 1)[0], revoked_at=NOW)
    given = [a_key("given")[0].api_key]

    ending = ending_keys([*keys, *replaced, *twice, revoked], given, now=NOW)

    assert [(key.name, (key.expires_at or 0) - NOW) for key in ending] == [
        ("just", 0),
        ("lately", 1 - 7 * day),
        ("soon", 14 * day),
        ("twice", 3),
    ]
