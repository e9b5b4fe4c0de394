"""What an image expects of its GPUs: member ``gpu`` of the golden document, and the policy of the gate in the image.

docs/golden-format.md, "GPUs", is the normative text. The guest and remote verifiers judge by the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from measurements.errors import FormatError, LimitError
from measurements.gpu.rim import DRIVER_VERSION, VBIOS_VERSION, RimKind
from measurements.moments import format_time, parse_time
from measurements.strictjson import Fields, loads

#: Bytes of the policy as a file.
MAX_EXPECTATIONS_BYTES: Final = 1 << 16
MAX_GPUS: Final = 16
MAX_NVSWITCHES: Final = 16
#: Manifests that an image may pin; `measurements.gpu.verify` reads as many.
MAX_RIMS: Final = 16
MAX_VBIOS_VERSIONS: Final = 64
MAX_ID: Final = 128

#: Names under which NVIDIA's service publishes manifests; they are names of files too.
RIM_ID = re.compile(r"NV_GPU_[A-Z0-9]+(_[A-Z0-9.]+)+", re.ASCII)
_CHIP = re.compile(r"[A-Z0-9]{2,16}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WHAT = "GPU expectations"


class Architecture(StrEnum):
    """Generations of GPUs with a confidential mode that reports by SPDM."""

    HOPPER = "hopper"
    BLACKWELL = "blackwell"

    def has(self, chip: str) -> bool:
        """Whether a chip, such as "GH100", is of this generation."""
        return _CHIPS[self].fullmatch(chip) is not None


_CHIPS: Final = {
    Architecture.HOPPER: re.compile(r"GH1[0-9]{2}", re.ASCII),
    Architecture.BLACKWELL: re.compile(r"GB[12][0-9]{2}", re.ASCII),
}
_DRIVER_IDS: Final = {
    Architecture.HOPPER: "NV_GPU_DRIVER_{chip}_{version}",
    Architecture.BLACKWELL: "NV_GPU_CC_DRIVER_{chip}_{version}",
}
_VBIOS_ID: Final = re.compile(
    r"NV_GPU_VBIOS_[A-Z0-9]+_[A-Z0-9]+_[A-Z0-9]+_(?P<version>[0-9A-F]{10})", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RimReference:
    """A manifest that is believed, and no other bytes.

    Attributes:
        id: NVIDIA's name for it.
        kind: of the driver, or of the GPU's firmware.
        chip: whose ("GH100").
        version: of driver or VBIOS.
        sha256: of the file, 64 hexadecimal digits.
        judged_at: when its signature was judged as it was imported; whole seconds in UTC. A guest has no clock that
            it may trust, and judges as of then.
    """

    id: str
    kind: RimKind
    chip: str
    version: str
    sha256: str
    judged_at: datetime

    def __post_init__(self) -> None:
        _matches("id of a RIM", self.id, RIM_ID, MAX_ID)
        _matches(f"{self.id}: chip", self.chip, _CHIP, 16)
        _matches(f"{self.id}: sha256", self.sha256, _SHA256, 64)
        pattern = DRIVER_VERSION if self.kind is RimKind.DRIVER else VBIOS_VERSION
        _matches(f"{self.id}: version", self.version, pattern, 32)
        if self.judged_at.utcoffset() != timedelta(0) or self.judged_at.microsecond:
            raise FormatError(f"{_WHAT}: {self.id}: judged_at is not a whole second in UTC")
        check_id(self.id, self.kind, self.chip, self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuExpectations:
    """What must hold of every GPU of a machine. Confidential mode on and developer tools off are no choice.

    Attributes:
        architecture: of all GPUs.
        driver_version: of the driver in the image ("550.163.01").
        count: how many GPUs there are.
        nvswitches: how many NVSwitches.
        vbios: versions that are allowed, ascending; ``None`` allows each that a pinned manifest is about.
        rims: the manifests to believe, ascending by id.
    """

    architecture: Architecture
    driver_version: str
    count: int
    nvswitches: int = 0
    vbios: tuple[str, ...] | None = None
    rims: tuple[RimReference, ...] = ()

    def __post_init__(self) -> None:
        _matches("driver version", self.driver_version, DRIVER_VERSION, 32)
        for what, number, least, most in (
            ("count", self.count, 1, MAX_GPUS),
            ("nvswitches", self.nvswitches, 0, MAX_NVSWITCHES),
        ):
            if not least <= number <= most:
                raise LimitError(f"{_WHAT}: {what} is {number}; expected {least} to {most}")
        if self.vbios is not None:
            if not 1 <= len(self.vbios) <= MAX_VBIOS_VERSIONS:
                raise LimitError(
                    f"{_WHAT}: {len(self.vbios)} VBIOS versions; expected 1 to {MAX_VBIOS_VERSIONS}"
                )
            for version in self.vbios:
                _matches("VBIOS version", version, VBIOS_VERSION, 16)
            if list(self.vbios) != sorted(set(self.vbios)):
                raise FormatError(f"{_WHAT}: expected ascending, distinct VBIOS versions")
        self._check_rims()

    def _check_rims(self) -> None:
        if len(self.rims) > MAX_RIMS:
            raise LimitError(f"{_WHAT}: {len(self.rims)} RIMs; at most {MAX_RIMS}")
        ids = [rim.id for rim in self.rims]
        if ids != sorted(set(ids)):
            raise FormatError(f"{_WHAT}: expected RIMs ascending by id, each once")
        if len({rim.sha256 for rim in self.rims}) != len(ids):
            raise FormatError(f"{_WHAT}: two RIMs are the same file")
        # A verifier that finds two manifests of one version believes neither.
        if len({(rim.kind, rim.chip, rim.version) for rim in self.rims}) != len(ids):
            raise FormatError(f"{_WHAT}: two RIMs are of one version of one chip")
        for rim in self.rims:
            self.check_rim(rim)

    def check_rim(self, rim: RimReference) -> None:
        """Check that a manifest is about what is expected.

        Raises:
            FormatError: it is of another architecture, another driver, or a VBIOS that is not allowed.
        """
        if not self.architecture.has(rim.chip):
            raise FormatError(f"{rim.id} is of {rim.chip}, which is no chip of {self.architecture}")
        if rim.kind is RimKind.DRIVER and rim.version != self.driver_version:
            raise FormatError(f"{rim.id} is of driver {rim.version}; expected {self.driver_version}")
        if rim.kind is RimKind.VBIOS and self.vbios is not None and rim.version not in self.vbios:
            raise FormatError(f"{rim.id} is of VBIOS {rim.version}; allowed are {', '.join(self.vbios)}")

    def of(self, kind: RimKind) -> tuple[RimReference, ...]:
        """Return the manifests of a kind."""
        return tuple(rim for rim in self.rims if rim.kind is kind)

    @property
    def missing(self) -> tuple[str, ...]:
        """What no manifest is held for, one text each: without these no GPU can pass."""
        lacking = []
        if not self.of(RimKind.DRIVER):
            chip = "GH100" if self.architecture is Architecture.HOPPER else "<chip>"
            name = _DRIVER_IDS[self.architecture].format(chip=chip, version=self.driver_version)
            lacking.append(f"driver {self.driver_version} ({name})")
        held = {rim.version for rim in self.of(RimKind.VBIOS)}
        if self.vbios is None and not held:
            lacking.append("any VBIOS (NV_GPU_VBIOS_<project>_<project SKU>_<chip SKU>_<version>)")
        lacking += [f"VBIOS {version}" for version in self.vbios or () if version not in held]
        return tuple(lacking)


def check_id(identifier: str, kind: RimKind, chip: str, version: str) -> None:
    """Check that a manifest's id says what the manifest says.

    Raises:
        FormatError: it names another driver, chip or VBIOS version.
    """
    if kind is RimKind.DRIVER:
        wanted = driver_rim_id(chip, version)
        if identifier != wanted:
            raise FormatError(
                f"RIM id {identifier!r}; the manifest of driver {version} of {chip} is {wanted}"
            )
        return
    match = _VBIOS_ID.fullmatch(identifier)
    if match is None or match["version"] != version.replace(".", ""):
        raise FormatError(
            f"RIM id {identifier[:MAX_ID]!r}; expected that of VBIOS {version}: "
            f"NV_GPU_VBIOS_<project>_<project SKU>_<chip SKU>_{version.replace('.', '')}"
        )


def driver_rim_id(chip: str, version: str) -> str:
    """Return the name under which NVIDIA publishes a driver's manifest.

    Raises:
        FormatError: the chip is of no known architecture.
    """
    for architecture in Architecture:
        if architecture.has(chip):
            return _DRIVER_IDS[architecture].format(chip=chip, version=version)
    raise FormatError(f"chip {chip[:16]!r} is of no known architecture; known: {', '.join(Architecture)}")


def to_value(expectations: GpuExpectations) -> dict[str, Any]:
    """Return JSON values in the order of docs/golden-format.md."""
    return {
        "architecture": expectations.architecture.value,
        "driver_version": expectations.driver_version,
        "count": expectations.count,
        "nvswitches": expectations.nvswitches,
        "confidential_mode": True,
        "developer_tools": False,
        "vbios": None if expectations.vbios is None else list(expectations.vbios),
        "rims": [rim_to_value(rim) for rim in expectations.rims],
    }


def rim_to_value(rim: RimReference) -> dict[str, Any]:
    """Return JSON values of a manifest's entry."""
    return {
        "id": rim.id,
        "kind": rim.kind.value,
        "chip": rim.chip,
        "version": rim.version,
        "sha256": rim.sha256,
        "judged_at": format_time(rim.judged_at),
    }


def serialize(expectations: GpuExpectations) -> bytes:
    """Return the policy as a file: canonical JSON (RFC 8785) and one newline."""
    # All names and texts are ASCII and all numbers small, where sorted and compact JSON is the canonical one.
    text = json.dumps(to_value(expectations), sort_keys=True, separators=(",", ":"))
    return f"{text}\n".encode("ascii")


def parse(data: bytes) -> GpuExpectations:
    """Parse the policy, in any JSON layout.

    Raises:
        FormatError: not JSON, a name missing, unknown or doubled, a wrong type, a value that allows what must not be.
        LimitError: a named limit is exceeded.
    """
    return from_fields(Fields(loads(data, what=_WHAT, max_bytes=MAX_EXPECTATIONS_BYTES), _WHAT))


def from_fields(fields: Fields) -> GpuExpectations:
    """Read the expectations from a JSON object.

    Raises:
        FormatError, LimitError: as `parse`.
    """
    name = fields.text("architecture", max_length=16)
    if name not in list(Architecture):
        raise FormatError(f"{fields.where}: architecture {name!r}; expected one of {', '.join(Architecture)}")
    for state, wanted in (("confidential_mode", True), ("developer_tools", False)):
        if fields.boolean(state) is not wanted:
            raise FormatError(f"{fields.where}: {state} is {not wanted}; expected {wanted}")
    versions = fields.raw("vbios")
    expectations = GpuExpectations(
        architecture=Architecture(name),
        driver_version=fields.text("driver_version", max_length=32, pattern=DRIVER_VERSION),
        count=fields.integer("count", minimum=1, maximum=MAX_GPUS),
        nvswitches=fields.integer("nvswitches", maximum=MAX_NVSWITCHES),
        vbios=None if versions is None else _versions(fields),
        rims=tuple(
            rim_from_fields(Fields(item, f"{fields.where}: rims[{position}]"))
            for position, item in enumerate(fields.array("rims", max_items=MAX_RIMS))
        ),
    )
    fields.end()
    return expectations


def rim_from_fields(fields: Fields) -> RimReference:
    """Read a manifest's entry from a JSON object.

    Raises:
        FormatError, LimitError: as `parse`.
    """
    kind = fields.text("kind", max_length=16)
    if kind not in list(RimKind):
        raise FormatError(f"{fields.where}: kind {kind!r}; expected one of {', '.join(RimKind)}")
    rim = RimReference(
        id=fields.text("id", max_length=MAX_ID, pattern=RIM_ID),
        kind=RimKind(kind),
        chip=fields.text("chip", max_length=16),
        version=fields.text("version", max_length=32),
        sha256=fields.hex("sha256", size=32).hex(),
        judged_at=parse_time(fields.text("judged_at", max_length=20)),
    )
    fields.end()
    return rim


def _versions(fields: Fields) -> tuple[str, ...]:
    versions = fields.array("vbios", max_items=MAX_VBIOS_VERSIONS, min_items=1)
    if not all(isinstance(version, str) for version in versions):
        raise FormatError(f"{fields.where}: 'vbios' holds something that is no text")
    return tuple(versions)


def _matches(what: str, value: str, pattern: re.Pattern[str], most: int) -> None:
    if len(value) > most or pattern.fullmatch(value) is None:
        raise FormatError(f"{_WHAT}: {what} is {value[:80]!r}; expected to match {pattern.pattern}")
