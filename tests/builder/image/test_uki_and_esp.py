"""Through the toolbox: the UKI as pefile reads it, the ESP as a small FAT32 reader does."""

import hashlib
import struct
from datetime import UTC, datetime

import pefile
import pytest

from builder.errors import ImageError
from builder.image.esp import build_esp
from builder.image.uki import STUB, build_uki

ROOT_HASH = "5f" * 32
INPUTS = {
    "command_line": f"quiet roothash={ROOT_HASH}",
    "os_release": "ID=sample\nNAME=Größe\n",
    "uname": "6.12.0-sample",
    "root_hash": ROOT_HASH,
}


def read_fat32(data):
    """Return {path: (content, write time)}: Microsoft, "FAT: General Overview of On-Disk Format" 1.03."""
    sector, per_cluster, reserved, tables = struct.unpack_from("<HBHB", data, 11)
    (fat_size,) = struct.unpack_from("<I", data, 36)
    (root,) = struct.unpack_from("<I", data, 44)
    heap = (reserved + tables * fat_size) * sector
    cluster_size = sector * per_cluster
    assert (len(data) - heap) // cluster_size >= 65_525

    def chain(cluster):
        clusters = []
        while cluster < 0x0FFFFFF8:
            at = heap + (cluster - 2) * cluster_size
            clusters.append(data[at : at + cluster_size])
            cluster = struct.unpack_from("<I", data, reserved * sector + 4 * cluster)[0] & 0x0FFFFFFF
        return b"".join(clusters)

    def walk(folder, prefix):
        for at in range(0, len(folder), 32):
            entry = folder[at : at + 32]
            if entry[0] == 0:
                return
            assert entry[11] != 0x0F, "a long name, and with it a checksum of a short one"
            if entry[0] in b".\xe5" or entry[11] & 8:
                continue
            name = entry[:8].decode().rstrip() + ("." + entry[8:11].decode()).rstrip(" .")
            time, date, low, size = struct.unpack_from("<HHHI", entry, 22)
            first = struct.unpack_from("<H", entry, 20)[0] << 16 | low
            stamp = datetime(
                1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2,
                tzinfo=UTC,
            )  # fmt: skip
            if entry[11] & 0x10:
                yield f"{prefix}{name}/", (None, stamp)
                yield from walk(chain(first), f"{prefix}{name}/")
            else:
                yield prefix + name, (chain(first)[:size] if size else b"", stamp)

    return dict(walk(chain(root), "/"))


@pytest.mark.integration
def test_uki_sections(tools, tmp_path):
    kernel, initrd = tools.path("usr/lib/systemd/boot/efi/addonx64.efi.stub").read_bytes(), b"initrd" * 999
    uki = build_uki(kernel, initrd, **INPUTS, tools=tools, workdir=tmp_path)
    assert uki.stat().st_size % 8 == 0
    image = pefile.PE(str(uki), fast_load=True)
    sections = {s.Name.rstrip(b"\0").decode(): s.get_data()[: s.Misc_VirtualSize] for s in image.sections}
    assert sections[".linux"] == kernel
    assert sections[".initrd"] == initrd
    assert sections[".cmdline"] == INPUTS["command_line"].encode()
    assert sections[".osrel"] == INPUTS["os_release"].encode()
    assert sections[".uname"] == INPUTS["uname"].encode()
    # SBAT (shim): the version line first and once, then who made it; the stub's own line among them.
    sbat = sections[".sbat"].rstrip(b"\0").decode().splitlines()
    assert [line.split(",")[0] for line in sbat] == ["sbat", "systemd-stub", "systemd-stub.debian", "uki"]
    assert [path.name for path in tmp_path.iterdir()] == ["uki.efi"]
    stub = pefile.PE(str(tools.path(STUB)), fast_load=True)
    assert image.FILE_HEADER.TimeDateStamp == stub.FILE_HEADER.TimeDateStamp


@pytest.mark.parametrize(
    ("command_line", "message"),
    [
        ("quiet", "does not carry roothash"),
        ("roothash=" + "0" * 64, "does not carry roothash"),
        (f"xroothash={ROOT_HASH}", "does not carry roothash"),
        (f"roothash={ROOT_HASH}0", "does not carry roothash"),
        (f"roothash={ROOT_HASH}\n", "printable ASCII"),
        (f"roothash={ROOT_HASH} ü", "printable ASCII"),
        (f"roothash={ROOT_HASH} " + "x" * 1974, "ignores the rest"),
    ],
)
def test_bad_command_line(tmp_path, command_line, message):
    from builder.tools import HOST

    with pytest.raises(ImageError, match=message):
        build_uki(b"", b"", **INPUTS | {"command_line": command_line}, tools=HOST, workdir=tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("size", [0, 1, 33 << 20, (64 << 20) + 1, 140 << 20])
def test_esp_holds_the_uki(tools, tmp_path, size):
    uki = tmp_path / "uki.efi"
    with uki.open("wb") as file:
        file.truncate(size)
        if size > 8:
            file.seek(size - 8)
            file.write(b"the end!")
    esp = build_esp(uki, volume_id=0x0BADCAFE, tools=tools, workdir=tmp_path)
    data = esp.read_bytes()
    assert len(data) % (1 << 20) == 0
    assert len(data) <= max(35 << 20, size * 1.06 + (3 << 20))
    assert struct.unpack_from("<I", data, 67)[0] == 0x0BADCAFE
    stamp = datetime.fromtimestamp(tools.source_date_epoch, UTC)
    found = read_fat32(data)
    assert {path: time for path, (_, time) in found.items()} == dict.fromkeys(
        ["/EFI/", "/EFI/BOOT/", "/EFI/BOOT/BOOTX64.EFI"], stamp
    )
    content = found["/EFI/BOOT/BOOTX64.EFI"][0]
    assert hashlib.sha256(content).digest() == hashlib.sha256(uki.read_bytes()).digest()
    tools.run("fsck.vfat", "-n", esp)


@pytest.mark.integration
def test_clock_before_1980(tools, tmp_path):
    from dataclasses import replace

    uki = tmp_path / "uki.efi"
    uki.write_bytes(b"uki")
    esp = build_esp(uki, volume_id=1, tools=replace(tools, source_date_epoch=0), workdir=tmp_path)
    times = {time for _, time in read_fat32(esp.read_bytes()).values()}
    assert times == {datetime(1980, 1, 1, tzinfo=UTC)}


def test_volume_id_has_32_bits(tmp_path):
    from builder.tools import HOST

    with pytest.raises(ImageError, match="32 bits"):
        build_esp(tmp_path, volume_id=1 << 32, tools=HOST, workdir=tmp_path)
