"""The version of both packages, and of the wheel's metadata.

Code reads it from here and not from the metadata, because a receiver may run from a checkout without installation.
"""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
