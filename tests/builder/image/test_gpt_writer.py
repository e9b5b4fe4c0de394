import shutil
import subprocess
from uuid import UUID

import pytest

from builder.errors import ImageError
from builder.image.gpt import Partition, build_gpt, image_partitions
from builder.image.identity import disk_identity
from measurements.formats import gpt

MIB = 1 << 20
IDENTITY = disk_identity("00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef", bytes(32))


def layout(esp=34 * MIB, root=5 * MIB + 4096, verity=45_056):
    return build_gpt(
        IDENTITY.disk, image_partitions(IDENTITY, esp_size=esp, root_size=root, verity_size=verity)
    )


def disk(table):
    return table.head + bytes(table.size - len(table.head) - len(table.tail)) + table.tail


def test_parses_as_what_was_asked_for():
    table = layout()
    parsed = gpt.parse(table.head)
    assert table.offsets == (1 * MIB, 35 * MIB, 41 * MIB)
    assert table.size == 43 * MIB
    assert parsed.disk_guid == IDENTITY.disk
    assert (parsed.alternate_lba, parsed.first_usable_lba) == (table.size // 512 - 1, 34)
    assert parsed.last_usable_lba == table.size // 512 - 34
    # Types from the Discoverable Partitions Specification; sizes to the last sector.
    assert [
        (str(p.type), p.unique, p.name, p.attributes, p.first_lba, p.last_lba) for p in parsed.partitions
    ] == [
        ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", IDENTITY.esp, "esp", 0, 2048, 71679),
        ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", IDENTITY.root, "root", 1 << 60, 71680, 81927),
        ("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", IDENTITY.verity, "root-verity", 1 << 60, 83968, 84055),
    ]


def test_protective_mbr():
    head = layout().head
    assert head[510:512] == b"\x55\xaa"
    # UEFI 2.10, table 5.4: not bootable, CHS 0x000200 and 0xFFFFFF, type 0xEE, from LBA 1 to the end.
    assert (
        head[446:462].hex() == "00000200eeffffff01000000" + (43 * MIB // 512 - 1).to_bytes(4, "little").hex()
    )
    assert not any(head[:446] + head[462:510])


def test_sgdisk_finds_no_problem(tmp_path):
    if shutil.which("sgdisk") is None:
        pytest.skip("no sgdisk on this host")
    image = tmp_path / "disk.raw"
    image.write_bytes(disk(layout()))
    result = subprocess.run(["sgdisk", "-v", image], capture_output=True, text=True, check=True)
    assert "No problems found" in result.stdout, result.stdout
    shown = subprocess.run(["sgdisk", "-i", "2", image], capture_output=True, text=True, check=True).stdout
    assert str(IDENTITY.root).upper() in shown
    assert "Attribute flags: 1000000000000000" in shown


def test_backup_mirrors_the_primary():
    table = layout()
    image = disk(table)
    backup, primary = image[-512:], image[512:1024]
    assert (backup[24:32], backup[32:40]) == (primary[32:40], primary[24:32])
    at = int.from_bytes(backup[72:80], "little") * 512
    assert image[at : at + 128 * 128] == image[1024 : 1024 + 128 * 128]


@pytest.mark.parametrize(
    ("size", "name", "count"), [(0, "x", 1), (-5, "x", 1), (1, "n" * 37, 1), (1, "x", 0), (1, "x", 129)]
)
def test_refuses(size, name, count):
    part = Partition(type=UUID(int=1), unique=UUID(int=2), name=name, attributes=0, size=size)
    with pytest.raises(ImageError, match="partition"):
        build_gpt(UUID(int=3), [part] * count)
