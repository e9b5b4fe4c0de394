"""The values that a prediction is made of: a launch shape, and what each register holds after that launch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from measurements.events import RegisterPrediction

#: GPUs of one launch: as many slots of a bus are left for them.
MAX_GPUS: Final = 15


class BootPath(StrEnum):
    """How the firmware finds the UKI."""

    DISK = "disk"  # \EFI\BOOT\BOOTX64.EFI on a GPT disk's ESP
    DIRECT = "direct"  # -kernel uki.efi


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareIdentity:
    """Which firmware file a shape boots.

    Attributes:
        name: the name a recipe gives it ("ovmf-2025.02").
        sha256: of the file, 64 hex digits; what operators compare.
        sha384: of the file, 96 hex digits; the key of firmware profiles.
    """

    name: str
    sha256: str
    sha384: str

    @classmethod
    def of(cls, name: str, data: bytes) -> FirmwareIdentity:
        """Return the identity of a firmware file's bytes."""
        return cls(
            name=name, sha256=hashlib.sha256(data).hexdigest(), sha384=hashlib.sha384(data).hexdigest()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchShape:
    """Everything beside the image that a register may depend on.

    Attributes:
        platform: "qemu-vtpm".
        firmware: the firmware file.
        boot: disk or direct.
        machine: QEMU's versioned machine type ("pc-q35-10.0").
        memory_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs.
        secure_boot: whether Secure Boot is on.
        gpus: how many GPUs the host passes through; of which kind is the recipe's to say.
    """

    platform: str
    firmware: FirmwareIdentity
    boot: BootPath
    machine: str
    memory_mib: int
    vcpus: int
    secure_boot: bool = False
    gpus: int = 0

    @property
    def name(self) -> str:
        """A stable name, unique in a golden document: ``qemu-vtpm/ovmf-2025.02/disk/2-vcpus/2048-mib``."""
        parts = [
            self.platform,
            self.firmware.name,
            str(self.boot),
            f"{self.vcpus}-vcpus",
            f"{self.memory_mib}-mib",
        ]
        parts += gpu_part(self.gpus)
        return "/".join([*parts, "secure-boot"] if self.secure_boot else parts)


def gpu_part(gpus: int) -> list[str]:
    """Return the part of a launch's name that says how many GPUs it has; nothing for none."""
    return [f"{gpus}-gpus"] if gpus else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a TPM holds after one launch: one entry for each of PCR 0-15, ascending."""

    shape: LaunchShape
    registers: tuple[RegisterPrediction, ...]

    def register(self, index: int) -> RegisterPrediction:
        """Return the prediction of PCR ``index`` (0-15)."""
        return next(register for register in self.registers if register.index == index)


def shape_to_json(shape: LaunchShape) -> dict[str, Any]:
    """Return a launch shape as JSON values; ``gpus`` is there where there are some."""
    return {
        "name": shape.name,
        "platform": shape.platform,
        "firmware": {
            "name": shape.firmware.name,
            "sha256": shape.firmware.sha256,
            "sha384": shape.firmware.sha384,
        },
        "boot": shape.boot.value,
        "machine": shape.machine,
        "memory_mib": shape.memory_mib,
        "vcpus": shape.vcpus,
        "secure_boot": shape.secure_boot,
        **({"gpus": shape.gpus} if shape.gpus else {}),
    }
