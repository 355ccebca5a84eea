"""The wheel as users install it: its version, its console scripts, and its types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from client.version import VERSION

ROOT = Path(__file__).parent.parent
WRONG_USE = """\
from client import TaskClient
from receiver.mounting import mount

TaskClient(7)
mount(7)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of both packages. Building one needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    run("hatchling", "build", "--target", "wheel", "--directory", str(folder), folder=ROOT)
    (path,) = folder.iterdir()
    return path


def run(module: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module with this Python and return its output. Exit codes above 1 fail the test."""
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode in (0, 1), finished
    return finished


def test_the_wheel_holds_both_packages(wheel: Path) -> None:
    """The file name has the version. The wheel has the `py.typed` files and the written contracts."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        scripts = archive.read(f"callback_receiver-{VERSION}.dist-info/entry_points.txt").decode()

    assert wheel.name == f"callback_receiver-{VERSION}-py3-none-any.whl"
    assert {"client/py.typed", "receiver/py.typed", "receiver/web/asyncapi.json", "receiver/web/openapi.json"} <= names
    assert {name.split("/")[0] for name in names} == {"client", "receiver", f"callback_receiver-{VERSION}.dist-info"}
    assert "callback-receiver = receiver.__main__:main" in scripts


def test_users_get_types(wheel: Path, tmp_path: Path) -> None:
    """The example of the README is right in mypy's strict mode, and wrong arguments are found."""
    installed = tmp_path / "installed"
    run("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed), str(wheel), folder=tmp_path)
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    (tmp_path / "example.py").write_text(example)
    (tmp_path / "wrong.py").write_text(WRONG_USE)

    options = ("--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", "--no-error-summary")
    # As with an installed package, and unlike with MYPYPATH, mypy needs the mark of a typed package here.
    checked = run("mypy", *options, "example.py", "wrong.py", folder=tmp_path, PYTHONPATH=str(installed))

    places = re.findall(r"^(\w+\.py:\d+): error: .* \[([\w-]+)\]$", checked.stdout, re.MULTILINE)
    assert places == [("wrong.py:4", "arg-type"), ("wrong.py:5", "call-arg"), ("wrong.py:5", "arg-type")], checked
