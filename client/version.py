"""The version of both packages, from which the wheel's metadata is made too.

It is read from here and not from the metadata, because a receiver may run from a checkout that is not installed.
"""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
