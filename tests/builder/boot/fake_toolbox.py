"""Stands in for QEMU and swtpm: small programs that keep a child running, so that what is left behind shows."""

import os
import sys
from pathlib import Path

from builder.tools import Tools

SWTPM = """
import socket, sys, time
path = next(a for a in sys.argv if a.startswith("type=unixio,path=")).split("path=")[1]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
time.sleep(600)
"""

QEMU = """
import os, subprocess, sys, time
from pathlib import Path
Path(os.environ["FAKE_PIDS"], str(os.getpid())).touch()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(os.environ["FAKE_PIDS"], str(child.pid)).touch()
print('BdsDxe: starting Boot0001 "UEFI Misc Device"', flush=True)
print("Linux version 6.12", flush=True)
if os.environ.get("FAKE_EXIT"):
    print("Kernel panic - not syncing: VFS: Unable to mount root fs", flush=True)
    child.kill()
    sys.exit(0)
time.sleep(600)
"""


class FakeTools(Tools):
    """Runs the stand-ins on this interpreter."""

    def command(self, program):
        folder = Path(self.root)
        return [sys.executable, str(folder / program)]

    def environment(self, extra=None):
        names = ("FAKE_PIDS", "FAKE_EXIT")
        return {"PATH": os.environ["PATH"]} | {name: os.environ[name] for name in names if name in os.environ}


def fake_tools(folder):
    (folder / "swtpm").write_text(SWTPM)
    (folder / "qemu-system-x86_64").write_text(QEMU)
    return FakeTools(root=folder)
