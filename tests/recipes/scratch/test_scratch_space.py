"""The scratch service's tables, checks and ioctls, and what including it adds to an image."""

import fcntl
import re
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.recipe import find_recipe, load_recipe

REPOSITORY = Path(__file__).parents[3]
sys.path.insert(0, str(REPOSITORY / "recipes/common/scratch"))

import mapper  # noqa: E402
import scratch  # noqa: E402

BASE = load_recipe(find_recipe("base", base=REPOSITORY))
WITH = load_recipe(Path(__file__).parent / "recipe.yaml")
FILES = {file.path: file.content.decode() for file in WITH.files["root"]}
SIZE = 256 << 20

#: What a C compiler prints of linux/dm-ioctl.h (Linux 6.1) on x86-64.
DM_DEV_CREATE, DM_DEV_SUSPEND, DM_TABLE_LOAD, DM_TABLE_STATUS = 0xC138FD03, 0xC138FD06, 0xC138FD09, 0xC138FD0C


@pytest.fixture
def kernel(monkeypatch):
    """Answers of the device mapper, in order; collects the calls."""
    calls = []

    def ioctl(descriptor, request, buffer):
        calls.append((descriptor, request, bytes(buffer)))
        answer = kernel.answers.pop(0)
        buffer[: len(answer)] = answer
        return 0

    kernel = type("Kernel", (), {"answers": [], "calls": calls})
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return kernel


def answer(*, flags=0, number=0, start=312, data=b""):
    header = struct.pack("=3I4I3IQ128s129s7x", 4, 48, 0, 4096, start, 1, 0, flags, 0, 0, number, b"", b"")
    return header.ljust(start, b"\0") + data


def test_a_device_is_created_loaded_and_resumed(kernel):
    kernel.answers = [answer(number=(254 << 8) | 3), answer(), answer()]
    device = mapper.Mapping(7, "some-name")
    assert (device.number, device.path) == ("254:3", "/dev/dm-3")
    device.load(8192, "crypt", "text of the table")
    device.resume()
    assert [(descriptor, request) for descriptor, request, _ in kernel.calls] == [
        (7, DM_DEV_CREATE), (7, DM_TABLE_LOAD), (7, DM_DEV_SUSPEND),
    ]  # fmt: skip
    load = kernel.calls[1][2]
    # offsets of struct dm_ioctl: data_size 12, data_start 16, target_count 20, flags 28, name 48
    assert struct.unpack_from("=IIIiI", load, 12) == (len(load), 312, 1, 0, 0)
    assert load[48:].startswith(b"some-name\0")
    # struct dm_target_spec: sector_start, length, status, next, target_type[16]; then the parameters
    assert struct.unpack_from("=QQiI16s", load, 312) == (0, 8192, 0, 0, b"crypt".ljust(16, b"\0"))
    assert load[352:].rstrip(b"\0") == b"text of the table"


def test_status_is_that_of_the_loaded_table(kernel):
    spec = struct.pack("=QQiI16s", 0, 8, 0, 0, b"integrity")
    kernel.answers = [answer(), answer(start=320, data=spec + b"0 4711 -\0rubbish")]
    assert mapper.Mapping(7, "name").loaded_status() == ["0", "4711", "-"]
    assert kernel.calls[1][1] == DM_TABLE_STATUS
    assert struct.unpack_from("=I", kernel.calls[1][2], 28) == (1 << 12,), "DM_QUERY_INACTIVE_TABLE_FLAG"


def test_an_answer_that_does_not_fit_is_an_error(kernel):
    kernel.answers = [answer(flags=1 << 8)]
    with pytest.raises(OSError, match="longer than"):
        mapper.Mapping(7, "name")


def test_a_refusal_names_the_device(kernel, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(OSError, match="some-name"):
        mapper.Mapping(7, "some-name")


def test_what_the_disk_says_of_itself_is_believed_within_limits():
    assert scratch.provided_sectors(["0", "512008", "-"], SIZE) == 512008
    assert scratch.provided_sectors(["0", "512015", "-"], SIZE) == 512008, "whole blocks"


@pytest.mark.parametrize(
    "status",
    [
        [],
        ["0"],
        ["0", "-"],
        ["0", "0"],
        ["0", "7"],
        ["0", "-8"],
        ["0", str(SIZE // 512)],
        ["0", "9" * 40],
        ["0", "²"],
    ],
)
def test_a_size_that_cannot_be_is_refused(status):
    with pytest.raises(scratch.ScratchError, match="dm-integrity provides"):
        scratch.provided_sectors(status, SIZE)


@given(st.lists(st.text(max_size=25), max_size=4), st.integers(min_value=scratch.MINIMUM, max_value=1 << 50))
def test_any_status_is_a_size_or_an_error(status, size):
    try:
        sectors = scratch.provided_sectors(status, size)
    except scratch.ScratchError:
        return
    assert 0 < sectors * 512 < size
    assert sectors % 8 == 0


def test_a_small_disk_is_refused(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 8192)
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: struct.pack("=Q", 8192))
    with pytest.raises(scratch.ScratchError, match="8192 bytes"):
        scratch.erase(str(disk))
    assert disk.read_bytes() == b"x" * 8192


def test_no_table_names_a_key():
    """Documentation/admin-guide/device-mapper/dm-crypt.rst: cipher, key, IV offset, device, offset, options."""
    words = scratch.crypt_table("254:1").split()
    assert words[0] == "capi:authenc(hmac(sha256),xts(aes))-random"
    assert words[1] == ":96:encrypted:goldsmith-scratch", "AES-256-XTS takes 64 bytes, HMAC-SHA-256 32"
    assert words[2:] == ["0", "254:1", "0", "2", "integrity:48:aead", "sector_size:4096"]
    assert scratch.integrity_table("254:16").split()[:5] == ["254:16", "0", "48", "D", "3"]


def test_a_program_that_fails_ends_the_service():
    with pytest.raises(scratch.ScratchError, match="ended with 1"):
        scratch.run("/bin/false")
    scratch.run("/bin/cat", given=b"")


def test_the_base_image_has_none_of_it():
    assert not any("scratch" in file.path for file in BASE.files["root"])
    added = set(WITH.root.modules) - set(BASE.root.modules)
    assert added == {"dm-crypt", "dm-integrity", "authenc", "xts", "aesni-intel", "sha256-ssse3"}
    assert WITH.command_line == BASE.command_line, "lockdown and the rest stay"


def test_its_modules_are_loaded_before_the_latch():
    lines = FILES["/usr/lib/modules-load.d/scratch.conf"].splitlines()
    loaded = {line for line in lines if line and line[0] != "#"}
    assert loaded == {name.replace("-", "_") for name in set(WITH.root.modules) - set(BASE.root.modules)}


def test_nothing_of_its_disk_is_looked_at():
    rules = FILES["/usr/lib/udev/rules.d/59-goldsmith-scratch.rules"].replace("\\\n", "")
    lines = [line for line in rules.splitlines() if line and line[0] != "#"]
    assert 'ATTR{serial}=="goldsmith-scratch"' in lines[0]
    assert all('ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1"' in line for line in lines[:2])


def test_the_mount_runs_nothing_and_the_service_is_boxed_in():
    options = re.search(r"^Options=(.*)$", FILES["/usr/lib/systemd/system/var-scratch.mount"], re.MULTILINE)
    assert options and {"noexec", "nosuid", "nodev"} <= set(options[1].split(","))
    service = FILES["/usr/lib/systemd/system/goldsmith-scratch.service"]
    for line in (
        "KeyringMode=private",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=CAP_SYS_ADMIN",
        "DevicePolicy=closed",
    ):
        assert f"\n{line}\n" in service
