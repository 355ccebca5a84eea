"""The store for a command of the operator's: opened for a few short transactions, whether a receiver runs or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from receiver.errors import CannotStartError, ReceiverError
from receiver.storage.sqlite import SqliteStore, open_sqlite_store

__all__ = ["open_briefly"]


@asynccontextmanager
async def open_briefly(database: Path, now: int) -> AsyncIterator[SqliteStore]:
    """The store of a database that is there already.

    Raises:
        CannotStartError: there is none, or it cannot be used; also in place of a `ReceiverError` of the block.
    """
    refused: ReceiverError | None = None
    async with (
        open_sqlite_store(database, now=now, clock=time.monotonic, create=False) as store,
        asyncio.TaskGroup() as owner,
    ):
        owner.create_task(store.run(), name="writer")
        try:
            yield store
        except ReceiverError as error:
            # Not raised in the group, which would wrap it.
            refused = error
        finally:
            store.stop()
    if refused is not None:
        raise CannotStartError(f"{database}: {refused.detail}", passes=refused.slug == "not-stored")
