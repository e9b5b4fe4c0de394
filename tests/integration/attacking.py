"""What the attacks on disks and those with evidence share: parts of a release, and predictions without a machine."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from builder.artifacts import Firmware
from builder.diagnosis import diagnose
from builder.launches import launches, predict_launch
from builder.release import manifest as manifests
from builder.store import Store
from builder.tools import Tools
from measurements import golden
from measurements.formats import gpt
from measurements.prediction import BootPath, Prediction


def part(release: Path, name: str, file: str = "disk.raw") -> manifests.Part:
    """Return where a part lies in a file of the release, as its manifest says."""
    found = [item for item in manifests.load(release).parts if (item.file, item.name) == (file, name)]
    assert len(found) == 1, f"{name} in {file}"
    return found[0]


def rename_partition(disk: Path) -> None:
    """Change the name of the first partition, and repair both checksums (UEFI 2.10, 5.3.2)."""
    with disk.open("r+b") as file:
        file.seek(512)
        header = bytearray(file.read(92))
        entries_lba, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(entries_lba * 512)
        entries = bytearray(file.read(count * size))
        entries[56] ^= 2
        struct.pack_into("<I", header, 88, zlib.crc32(entries))
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        file.seek(entries_lba * 512)
        file.write(entries)
        file.seek(512)
        file.write(header)


class Desk:
    """What an operator has: the toolbox, the firmware builds, the release; no machine."""

    def __init__(self, release: Path, tools: Tools, builds: tuple[Firmware, ...], store: Store) -> None:
        self.release, self.tools, self.store = release, tools, store
        platforms = manifests.load(release).platforms
        self.disk_launches = {
            item.firmware.name: item for item in launches(platforms, builds) if item.boot is BootPath.DISK
        }

    def predict(
        self, *, uki: bytes | None = None, disk: bytes | None = None, build: str = "ovmf-2025.02"
    ) -> Prediction:
        """Predict a disk boot of another UKI, partition table, or firmware."""
        return predict_launch(
            self.disk_launches[build],
            uki=uki or (self.release / "uki.efi").read_bytes(),
            disk=gpt.parse(disk or self.disk_prefix()),
            tools=self.tools,
            store=self.store,
        )

    def diagnose(self, folder: Path, document: golden.GoldenDocument) -> tuple[str, ...]:
        launch = self.disk_launches["ovmf-2025.02"]
        shape = self.predict().shape.name
        return diagnose(folder, document, shape, launch, tools=self.tools, store=self.store)

    def disk_prefix(self) -> bytes:
        with (self.release / "disk.raw").open("rb") as file:
            return file.read(1 << 20)
