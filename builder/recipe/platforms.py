"""The machines that a recipe declares: what is predicted and published for each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from builder.recipe.base import Model, Name, SafeInteger
from measurements.prediction import MAX_GPUS


class PassedThrough(Model):
    """GPUs of one kind that the host passes through, each a function of its own on the root bus, without option ROM."""

    counts: tuple[Annotated[int, Field(ge=0, le=MAX_GPUS)], ...] = Field(
        min_length=1, description="how many; 0 for the launches without"
    )
    bars_mib: tuple[Annotated[int, Field(ge=1, le=1 << 24)], ...] = Field(
        min_length=1,
        max_length=3,
        description="sizes of a GPU's 64-bit memory BARs by index, as lspci shows them: powers of two",
    )

    @field_validator("bars_mib")
    @classmethod
    def _powers_of_two(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size & size - 1 for size in sizes):
            raise ValueError(f"BARs of {', '.join(map(str, sizes))} MiB; a BAR's size is a power of two")
        return sizes

    @property
    def bars(self) -> tuple[int, ...]:
        """The sizes in bytes."""
        return tuple(size << 20 for size in self.bars_mib)


class Platform(Model):
    """Machines whose registers are predicted and published: every combination of the lists.

    Those of ``secure_boot`` are predicted when a release is sealed (`goldsmith seal`), with its keys.
    """

    name: Literal["qemu-vtpm"]
    machine: str = Field(pattern=r"^pc-q35-\d+\.\d+$")
    cpu: str = Field(default="qemu64", pattern=r"^[A-Za-z0-9_.,+=-]+$")
    firmware: tuple[Name, ...]
    secure_boot: tuple[Name, ...] = Field(
        default=(),
        description="firmware that verifies what it starts; such machines have system management mode, and "
        "the keys of a sealed release",
    )
    boot: tuple[Literal["disk", "direct"], ...] = ("disk", "direct")
    memory_mib: tuple[Annotated[int, Field(ge=64, le=1 << 24)], ...]
    vcpus: tuple[Annotated[int, Field(ge=1, le=4096)], ...]
    gpus: PassedThrough | None = Field(
        default=None, description="GPUs passed through, which show in the ACPI tables: PCR 1, RTMR0"
    )


class SevSnpPlatform(Model):
    """SEV-SNP guests whose launch digests are published: every combination of the lists."""

    name: Name
    vmm: Literal["qemu", "ec2", "gce"] = "qemu"
    firmware: tuple[Name, ...] = Field(min_length=1, description="builds of code and variables in one file")
    boot: tuple[Literal["disk", "direct"], ...] = Field(
        default=("direct",),
        description="direct: -kernel with kernel hashes, which bind the UKI; disk: the digest binds no image",
    )
    cpu: tuple[str, ...] = Field(
        default=(), description="models of QEMU's -cpu; none for VMMs that do not measure the model"
    )
    vcpus: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=1)
    guest_features: SafeInteger = Field(default=1, ge=1, description="SEV_FEATURES")


class TdxPlatform(Model):
    """Trust domains whose registers are published: every combination of the lists."""

    name: Name
    vmm: Literal["qemu", "gce"] = "qemu"
    machine: str | None = Field(
        default=None,
        pattern=r"^pc-q35-\d+\.\d+$",
        description="QEMU's machine type, built by QEMU of the same release; its tables, and so RTMR0, are known "
        "when that release is the toolbox's or one of `emulators`",
    )
    firmware: tuple[Name, ...] = Field(min_length=1, description="builds of code and variables in one file")
    boot: tuple[Literal["disk", "direct"], ...] = ("disk", "direct")
    memory_mib: tuple[Annotated[int, Field(ge=64, le=1 << 24)], ...] = Field(min_length=1)
    vcpus: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=1)
    gpus: PassedThrough | None = Field(
        default=None, description="GPUs passed through, which show in the ACPI tables: PCR 1, RTMR0"
    )
