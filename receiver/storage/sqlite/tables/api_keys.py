"""The table of API keys: its statements, its rows, and the operations on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from receiver.domain.access.api_keys import MOST_KEYS, AddKey, NoteKeysUsed, RevokeKeys, StoredKey
from receiver.errors import ReceiverError
from receiver.storage.sqlite.statements import json_array

__all__ = ["change_keys", "read_keys"]

_COLUMNS = "id, name, digest, scopes, providers, created_at, expires_at, revoked_at, last_used_at"

# All keys, oldest first: their ids begin with the time. The table is bounded.
SELECT_KEYS = f"SELECT {_COLUMNS} FROM api_key ORDER BY id LIMIT {MOST_KEYS}"
# A new key.
INSERT_KEY = f"INSERT INTO api_key ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# The number of keys.
SELECT_KEY_COUNT = "SELECT count(*) FROM api_key"
# The oldest key that ended. The parameter is the time.
DELETE_ENDED_KEY = (
    "DELETE FROM api_key WHERE id = (SELECT min(id) FROM api_key WHERE revoked_at IS NOT NULL OR expires_at <= ?)"
)
# A key is revoked. The parameters: the time, the id.
REVOKE_KEY = "UPDATE api_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
# A key was used. The parameters: the time, the id.
NOTE_KEY_USED = "UPDATE api_key SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?"


def read_keys(connection: sqlite3.Connection) -> Sequence[StoredKey]:
    """Return all keys, oldest first."""
    return [_key_from(row) for row in connection.execute(SELECT_KEYS)]


def change_keys(connection: sqlite3.Connection, operation: AddKey | RevokeKeys | NoteKeysUsed) -> None:
    """Carry out an operation on the table, in the open transaction.

    Raises:
        ReceiverError: `quota-full`.
    """
    match operation:
        case AddKey(key=key):
            _add(connection, key)
        case RevokeKeys(ids=ids, now=now):
            connection.executemany(REVOKE_KEY, [(now, key_id) for key_id in ids])
        case NoteKeysUsed(times=times):
            connection.executemany(NOTE_KEY_USED, [(used_at, key_id) for key_id, used_at in times.items()])


def _add(connection: sqlite3.Connection, key: StoredKey) -> None:
    (count,) = connection.execute(SELECT_KEY_COUNT).fetchone()
    if count >= MOST_KEYS and not connection.execute(DELETE_ENDED_KEY, (key.created_at,)).rowcount:
        raise ReceiverError("quota-full", f"there are {MOST_KEYS} valid API keys already; revoke some")
    providers = None if key.providers is None else json_array(sorted(key.providers))
    times = key.created_at, key.expires_at, key.revoked_at, key.last_used_at
    connection.execute(INSERT_KEY, (key.id, key.name, key.digest, json_array(sorted(key.scopes)), providers, *times))


def _key_from(row: tuple[Any, ...]) -> StoredKey:
    key_id, name, digest, scopes, providers, created_at, expires_at, revoked_at, last_used_at = row
    return StoredKey(
        id=key_id,
        name=name,
        digest=digest,
        scopes=frozenset(from_json(scopes)),
        providers=None if providers is None else frozenset(from_json(providers)),
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
        last_used_at=last_used_at,
    )
