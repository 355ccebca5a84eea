"""Programs of Debian packages that some tests run, such as proxies. Without them these tests are skipped."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["tool"]

# Of users who are not root, the path often lacks them.
_FOLDERS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def tool(name: str, *, package: str) -> str:
    """Return the path of a program. If it is missing, skip the test, unless REQUIRE_TOOLS=1."""
    path = shutil.which(name, path=_FOLDERS)
    if path is None:
        reason = f"{name} is not installed (Debian's package is {package})"
        if os.environ.get("REQUIRE_TOOLS") == "1":
            pytest.fail(f"REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    return path
