"""Put the documents of an inventory into a release folder."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from builder.release.sbom.cyclonedx import to_cyclonedx
from builder.release.sbom.model import Inventory
from builder.release.sbom.read import CYCLONEDX
from builder.release.sbom.spdx import SPDX, to_spdx


def write_sboms(inventory: Inventory, folder: Path) -> tuple[Path, ...]:
    """Write the SPDX and the CycloneDX document; return their paths."""
    producer = metadata.version("goldsmith")
    documents = {
        SPDX: to_spdx(inventory, producer=producer),
        CYCLONEDX: to_cyclonedx(inventory, producer=producer),
    }
    for name, content in documents.items():
        (folder / name).write_bytes(content)
    return tuple(folder / name for name in documents)
