"""Programs of Debian packages that some tests run, such as proxies and a browser. Without them these are skipped."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["tool"]

# Of users who are not root, the path often lacks them.
_FOLDERS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def tool(*names: str, package: str) -> str:
    """Return the path of a program, which may have several names. Without it, skip the test, unless REQUIRE_TOOLS=1."""
    path = next(filter(None, (shutil.which(name, path=_FOLDERS) for name in names)), None)
    if path is None:
        reason = f"{names[0]} is not installed (Debian's package is {package})"
        if os.environ.get("REQUIRE_TOOLS") == "1":
            pytest.fail(f"REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    return path
