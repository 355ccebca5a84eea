"""The shipped providers. `catalog.toml` is read once, at import."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from client.providers.declaration import read_catalog
from client.providers.dialect import Dialect

__all__ = ["DIALECTS"]

DIALECTS: Mapping[str, Dialect] = read_catalog(
    resources.files("client.providers").joinpath("catalog.toml").read_bytes()
)
"""The shipped providers, by name."""
