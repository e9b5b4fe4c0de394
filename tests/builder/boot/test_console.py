"""The console follower: phases, cleaning, limits."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from builder.boot import console
from builder.boot.console import PHASES, Console

#: From a boot of OVMF 2025.02 and Debian's systemd 257, shortened.
BOOT = (
    b'\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading Boot0001 "UEFI Misc Device"\r\n'
    b'BdsDxe: starting Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x1,0x0)\r\n'
    b"EFI stub: Measured initrd data into PCR 9\r\n"
    b"[    0.000000] Linux version 6.12.90+deb13-cloud-amd64\r\n"
    b"systemd 257 running in system mode\r\nRunning in initrd.\r\n"
    b"Switching root.\r\n[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mmulti-user.target\x1b[0m.\r\n"
)


def follow(data, log=None):
    followed = Console(io.BufferedReader(io.BytesIO(data)), log)
    followed.drain(10)
    return followed


def test_phases_advance_with_the_console():
    lines = BOOT.split(b"\r\n")
    seen = [follow(b"\r\n".join(lines[:count]) + b"\r\n").phase for count in range(1, len(lines))]
    assert list(dict.fromkeys(seen)) == [name for name, _ in PHASES]


def test_escape_sequences_are_taken_out():
    assert follow(BOOT).tail(1) == "[  OK  ] Reached target multi-user.target."


def test_a_line_without_an_end_is_kept_up_to_a_limit():
    assert len(follow(b"x" * 100_000).tail()) == 400


def test_a_phase_never_goes_back():
    assert follow(BOOT + b"EFI stub: again\r\n").phase == "userspace"


def test_the_log_is_the_bytes_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(console, "_MAX_LOG", 100)
    log = io.BytesIO()
    follow(BOOT * 100, log)
    assert BOOT.startswith(log.getvalue()[:100])
    assert 100 <= len(log.getvalue()) <= 100 + console._CHUNK


@given(st.binary(max_size=2000))
@settings(max_examples=100, deadline=None)
def test_nothing_a_guest_prints_reaches_the_terminal_raw(data):
    text = follow(data + b"\n").tail(200)
    assert all(character == "\n" or character.isprintable() or ord(character) >= 0xA0 for character in text)
