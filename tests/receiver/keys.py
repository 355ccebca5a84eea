"""API keys for tests, made and revoked as by a command in another process."""

from __future__ import annotations

import secrets
from pathlib import Path
from uuid import uuid4

from receiver.app import microseconds_now
from receiver.domain.access.api_keys import AddKey, RevokeKeys, StoredKey
from receiver.settings import digest_of
from tests.receiver.storage.stores import running_store
from tests.support import RunningReceiver, eventually

__all__ = ["a_key", "add_key", "new_key", "revoke_key"]


def a_key(
    name: str = "worker",
    *,
    scopes: tuple[str, ...] = ("submit", "read"),
    providers: tuple[str, ...] | None = None,
    expires_at: int | None = None,
) -> tuple[StoredKey, str]:
    """Return a key and its secret."""
    secret = secrets.token_urlsafe(32)
    key = StoredKey(
        id=str(uuid4()),
        name=name,
        digest=digest_of(secret),
        scopes=frozenset(scopes),
        providers=None if providers is None else frozenset(providers),
        created_at=microseconds_now(),
        expires_at=expires_at,
    )
    return key, secret


async def add_key(database: Path, key: StoredKey) -> None:
    """Store the key."""
    async with running_store(database) as store:
        await store.write(AddKey(key=key))


async def revoke_key(database: Path, key: StoredKey) -> None:
    """Revoke the key."""
    async with running_store(database) as store:
        await store.write(RevokeKeys(ids=(key.id,), now=microseconds_now()))


async def new_key(
    api: RunningReceiver,
    database: Path,
    name: str = "worker",
    *,
    scopes: tuple[str, ...] = ("submit", "read"),
    providers: tuple[str, ...] | None = None,
) -> tuple[StoredKey, str]:
    """Return a new key and its secret, once the receiver knows it."""
    key, secret = a_key(name, scopes=scopes, providers=providers)
    await add_key(database, key)
    await eventually(lambda: api.keys.find(secret) is not None)
    return key, secret
