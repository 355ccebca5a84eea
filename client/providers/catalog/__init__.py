"""Every provider that is known here, declared by its facts: one module for each way of calling back."""

from __future__ import annotations

from collections.abc import Sequence

from client.providers.catalog.bare import BARE
from client.providers.catalog.envelopes import ENVELOPES
from client.providers.catalog.polled import POLLED
from client.providers.catalog.results import RESULTS
from client.providers.dialect import Dialect

__all__ = ["CATALOG"]

CATALOG: Sequence[Dialect] = (*RESULTS, *BARE, *ENVELOPES, *POLLED)
