"""A session's end: whatever happened, no process, socket or folder is left."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import pytest
from fake_toolbox import fake_tools

from builder.artifacts import Firmware, Machine
from builder.boot import session
from builder.boot.session import boot_session
from builder.errors import BootError, UsageError
from measurements.prediction import BootPath

MACHINE = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=256, vcpus=1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("tools", "pids"):
        (tmp_path / name).mkdir()
    (tmp_path / "disk.raw").write_bytes(b"disk")
    (tmp_path / "vars.fd").write_bytes(b"vars")
    (tmp_path / "code.fd").write_bytes(b"code")
    monkeypatch.setenv("FAKE_PIDS", str(tmp_path / "pids"))
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as short:  # sockets have short paths
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield tmp_path


def boot(place, **options):
    firmware = Firmware(name="f", package="", version="", code=place / "code.fd", variables=place / "vars.fd")
    with mock.patch.object(session, "manufacture", return_value="key"):  # the stand-in speaks no TPM 2.0
        return boot_session(
            fake_tools(place / "tools"),
            firmware,
            MACHINE,
            BootPath.DISK,
            place / "disk.raw",
            None,
            nonce=bytes(16),
            accelerator="tcg",
            **options,
        )


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def left_behind(place):
    deadline = time.monotonic() + 10
    while True:
        processes = [int(path.name) for path in (place / "pids").iterdir() if alive(int(path.name))]
        if not processes or time.monotonic() > deadline:
            return processes, list(Path(tempfile.tempdir).iterdir())
        time.sleep(0.05)


def test_a_timeout_tells_the_phase_and_leaves_nothing(place):
    with pytest.raises(BootError, match=r"'kernel'.*\n(.*\n)*Linux version 6\.12") as caught:
        boot(place, timeout=2)
    assert "BdsDxe: starting" in str(caught.value)
    assert len(list((place / "pids").iterdir())) == 2, "the stand-ins ran"
    assert left_behind(place) == ([], [])


def test_a_machine_that_switches_itself_off_tells_its_last_words(place, monkeypatch):
    monkeypatch.setenv("FAKE_EXIT", "1")
    with pytest.raises(BootError, match=r"switched itself off.*\n(.*\n)*.*Kernel panic"):
        boot(place, timeout=30)
    assert left_behind(place) == ([], [])


def test_an_interrupt_leaves_nothing(place, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "request_evidence", interrupted)
    with pytest.raises(KeyboardInterrupt):
        boot(place)
    assert left_behind(place) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_process_leaves_nothing(place, number):
    code = f"""
import sys, tempfile
sys.path.insert(0, {str(Path(__file__).parent)!r})
tempfile.tempdir = {tempfile.tempdir!r}
from pathlib import Path
from test_session import boot
try:
    boot(Path({str(place)!r}), timeout=60)
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        # A test run in the background of a shell ignores SIGINT, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while len(list((place / "pids").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 130
    assert left_behind(place) == ([], [])


def test_a_disk_boot_needs_a_disk(place):
    firmware = Firmware(name="f", package="", version="", code=place / "code.fd", variables=place / "vars.fd")
    with pytest.raises(UsageError, match="disk image"):
        boot_session(
            fake_tools(place / "tools"), firmware, MACHINE, BootPath.DISK, None, None, nonce=bytes(16)
        )


def test_a_folder_too_deep_for_sockets_is_named(place, monkeypatch):
    deep = place / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(UsageError, match="too long a path"):
        boot(place)
