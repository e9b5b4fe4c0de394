"""Why a release did not come up: its bytes held against the signed document, without running any of them.

A machine that refuses its image stops without evidence, and production images are silent after the EFI stub.
What the signed document says about the boot chain, and what the chain says about the root, still name the part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from builder.atomic import temporary_folder
from builder.disks import read_partition_table
from builder.errors import BuilderError, ToolError, UsageError
from builder.image.esp import read_boot_file
from builder.image.verity import verify_verity
from builder.launches import Launch, predict_launch
from builder.store import Store
from builder.tools import Tools
from measurements import golden
from measurements.errors import FormatError, MeasurementError
from measurements.formats import gpt, uki
from measurements.prediction import BootPath

_CHUNK = 1 << 20
_ROOT_HASH = re.compile(rb"(?:^|\s)roothash=([0-9a-f]{64})(?:\s|\0|$)")
#: How many findings are told.
_LISTED = 6


def diagnose(
    folder: Path, document: golden.GoldenDocument, shape: str, launch: Launch, *, tools: Tools, store: Store
) -> tuple[str, ...]:
    """Name what in a release's own bytes keeps it from booting as the document says.

    Args:
        folder: the release; only disk.raw and, for a direct boot, uki.efi are looked at.
        document: its golden document, its signature already checked.
        shape: the launch shape of the document that was tried.
        launch: the same shape as a machine.

    Returns:
        One line for each finding, the outermost part first; empty when the bytes are as they must be. What
        cannot be looked into is a finding, never an exception.
    """
    return tuple(_findings(folder, document, shape, launch, tools, store))[:_LISTED]


def _findings(
    folder: Path, document: golden.GoldenDocument, shape: str, launch: Launch, tools: Tools, store: Store
) -> Iterator[str]:
    disk = folder / "disk.raw"
    try:
        table = read_partition_table(disk)
    except (FormatError, UsageError) as error:
        yield f"partition table (GPT): {error}"
        return
    with temporary_folder("goldsmith-diagnosis-") as work:
        try:
            image = _booted_image(folder, table, launch.boot, tools, work)
            now = predict_launch(launch, uki=image, disk=table, tools=tools, store=store)
            parsed = uki.parse(image)
        except (BuilderError, MeasurementError, OSError) as error:
            yield f"EFI system partition or UKI: {error}"
            return
        promised = tuple(item for item in document.predictions if item.shape.name == shape)
        # Other bytes than the release's contradict its image layer; the registers name them all the same.
        of_launch = replace(document, image_layer=None)
        differences = golden.compare(
            replace(of_launch, predictions=promised), replace(of_launch, predictions=(now,))
        )
        for cause in dict.fromkeys(item.cause for item in differences if item.cause):
            registers = {item.where.rpartition("PCR ")[2] for item in differences if item.cause == cause}
            yield f"{cause} is not what the signed document says (PCR {', '.join(sorted(registers, key=int))})"
        found = _ROOT_HASH.search(parsed.data(".cmdline")) if ".cmdline" in parsed.sections else None
        if found is None:
            yield "uki .cmdline: names no root hash"
            return
        yield from _root(disk, table, found[1].decode(), tools, work)


def _booted_image(folder: Path, table: gpt.Gpt, boot: BootPath, tools: Tools, work: Path) -> bytes:
    if boot is BootPath.DIRECT:
        return (folder / "uki.efi").read_bytes()
    return read_boot_file(_extract(folder / "disk.raw", table, "esp", work), tools=tools, workdir=work)


def _root(disk: Path, table: gpt.Gpt, root_hash: str, tools: Tools, work: Path) -> Iterator[str]:
    try:
        root, tree = (_extract(disk, table, name, work) for name in ("root", "root-verity"))
    except FormatError as error:
        yield f"partition table (GPT): {error}"
        return
    try:
        verify_verity(root, tree, root_hash=root_hash, tools=tools)
    except ToolError as error:
        said = " ".join(str(error).splitlines()[1:])
        yield (
            "root file system or verity hash tree: dm-verity refuses them, they do not lead to the root hash "
            f"in uki .cmdline: {said}"
        )


def _extract(disk: Path, table: gpt.Gpt, name: str, work: Path) -> Path:
    entry = next((item for item in table.partitions if item.name == name), None)
    if entry is None:
        raise FormatError(f"there is no partition {name!r}")
    target = work / f"{name}.img"
    with disk.open("rb") as source, target.open("wb") as copy:
        source.seek(entry.first_lba * table.sector_size)
        left = (entry.last_lba - entry.first_lba + 1) * table.sector_size
        while left and (chunk := source.read(min(left, _CHUNK))):
            copy.write(chunk)
            left -= len(chunk)
    return target
