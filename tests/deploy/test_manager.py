"""The units of deploy/systemd under a real systemd in namespaces of its own: which failures end them, and which don't.

The receiver is a stand-in. Users, confinement and the state folder are left out, as they need the whole machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.files import SOCKET, UNIT
from tests.support import free_port
from tests.tools import tool

SECONDS = 60
PREPARED = "prepared"
# The manager of a user needs no more of the machine than these two mounts.
BEGINNING = f"""
set -e
mount -t tmpfs tmpfs /run
mount -t cgroup2 none /sys/fs/cgroup
export XDG_RUNTIME_DIR=/run/user/0
mkdir -p /run/systemd/system /run/user/0/systemd/user
cp callback-receiver.service callback-receiver.socket /run/user/0/systemd/user/
echo {PREPARED}
/lib/systemd/systemd --user --unit=basic.target > manager.log 2>&1 &
control() {{ systemctl --user "$@" 2>> control.log; }}
state() {{ control is-active "callback-receiver.$1" || true; }}
becomes() {{ while [ "$(state "$1")" != "$2" ]; do sleep 0.05; done; }}
starts() {{ wc -l < starts; }}
while ! control is-active basic.target > /dev/null; do sleep 0.05; done
"""
NOTE = "echo start >> starts; "
READY = textwrap.dedent("""
    import os, socket, time
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    socket.socket(fileno=3).accept()[0].sendall(b"hello")
    time.sleep(1000)
""")


@pytest.fixture
def control_group() -> Iterator[Path]:
    """Yield a new control group, which systemd takes for the root of all."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), Path("/sys/fs/cgroup"))
    group = root / f"callback-receiver-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"a systemd for tests needs a control group of its own: {error}")
    yield group
    for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()
    group.rmdir()


def under_systemd(folder: Path, control_group: Path, port: int, steps: str) -> list[str]:
    """Run the steps in a shell beside a systemd with both units. Return the lines that they print."""
    systemctl, unshare = tool("systemctl", package="systemd"), tool("unshare", package="util-linux")
    needs_machine = (
        r"^(?:User|Group|StateDirectory|StateDirectoryMode)=.*\n|^NoNewPrivileges=.*\n(?:.*\n)*?(?=\[Install\])"
    )
    unit = re.sub(needs_machine, "", UNIT, flags=re.MULTILINE)
    for name, value in {
        "WorkingDirectory": str(folder),
        "ExecStart": f"/bin/sh {folder}/receiver.sh",
        "RestartSec": "50ms",
    }.items():
        unit, changes = re.subn(rf"^{name}=.*$", f"{name}={value}", unit, flags=re.MULTILINE)
        assert changes == 1, name
    (folder / "callback-receiver.service").write_text(unit.replace("systemctl stop", f"{systemctl} --user stop"))
    (folder / "callback-receiver.socket").write_text(SOCKET.replace("8080", str(port)))
    (folder / "ready.py").write_text(READY)
    (folder / "starts").touch()
    (folder / "steps.sh").write_text(BEGINNING + steps)
    isolated = f"{unshare} --fork --pid --mount --cgroup --kill-child --mount-proc /bin/sh steps.sh"

    done = subprocess.run(
        ["/bin/sh", "-c", f"echo $$ > {control_group}/cgroup.procs && exec timeout {SECONDS} {isolated}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    printed = done.stdout.splitlines()
    if printed[:1] != [PREPARED]:
        pytest.skip(f"a systemd for tests needs namespaces and mounts: {done.stderr.strip()}")
    assert done.returncode == 0, (done, (folder / "control.log").read_text())
    return printed[1:]


def test_a_refused_start_stays_down(tmp_path: Path, control_group: Path) -> None:
    """After exit code 2 there is no second start, and connections are refused instead of starting one."""
    port = free_port()
    connect = f"{sys.executable} -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 5)'"
    printed = under_systemd(
        tmp_path,
        control_group,
        port,
        f"""
        echo '{NOTE} exit 2' > receiver.sh
        control start callback-receiver || true
        becomes socket inactive
        {connect} 2>&1 | tail -1 | cut -d: -f1
        echo $(state service) $(starts)
        """,
    )

    assert printed == ["ConnectionRefusedError", "failed 1"]


def test_failures_end_when_their_reason_ends(tmp_path: Path, control_group: Path) -> None:
    """However often a start failed, the next one is tried, and a connection from before is answered."""
    port = free_port()
    printed = under_systemd(
        tmp_path,
        control_group,
        port,
        f"""
        echo '{NOTE} exit 1' > receiver.sh
        control start --no-block callback-receiver
        becomes socket active
        {sys.executable} -c 'import socket; print(socket.create_connection(("127.0.0.1", {port}), 60).recv(9))' > said &
        client=$!
        while [ $(starts) -lt 25 ]; do sleep 0.05; done
        echo $(state socket)
        echo '{NOTE} exec {sys.executable} ready.py' > receiver.sh
        becomes service active
        wait $client
        cat said
        control stop callback-receiver.socket
        becomes service inactive
        """,
    )

    assert printed == ["active", "b'hello'"]
